// The Python face of the headers: meap_megatron._C. Callers are meap_megatron.masking and the tests; users call the
// former, which checks arguments. What is checked here keeps a wrong call from writing outside a buffer.
#include "gpt/bindings.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>

#include "random/philox.hpp"
#include "random/philox_simd.hpp"
#include "random/word_stream.hpp"
#include "sft/bindings.hpp"
#include "strategies/registry.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace {

using Positions = py::array_t<std::int64_t>;

void check(const meap::Draw& draw) {
    if (draw.num_eligible < 0 || draw.num_eligible > std::numeric_limits<std::int32_t>::max()) {
        throw std::invalid_argument("num_eligible must be in 0..2147483647");
    }
    if (draw.count < 0 || draw.count > draw.num_eligible) {
        throw std::invalid_argument("count must be in 0..num_eligible");
    }
    if (draw.span_length < 1) throw std::invalid_argument("span_length must be at least 1");
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "Native parts of meap_megatron. Call meap_megatron.masking, which checks arguments.";
    // Of version.py when this was built: `meap doctor` compares it with the Python part.
    m.attr("__version__") = MEAP_VERSION;

    m.def(
        "philox4x32",
        [](std::tuple<std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t> counter,
           std::tuple<std::uint32_t, std::uint32_t> key) {
            const meap::Counter words = meap::philox4x32(
                {std::get<0>(counter), std::get<1>(counter), std::get<2>(counter), std::get<3>(counter)},
                {std::get<0>(key), std::get<1>(key)});
            return std::make_tuple(words[0], words[1], words[2], words[3]);
        },
        "counter"_a, "key"_a, "Return one block of Philox 4x32-10: four 32-bit words.");

    m.def(
        "philox_words",
        [](std::tuple<std::uint32_t, std::uint32_t> key, std::uint32_t first_block, std::uint32_t stream,
           std::uint64_t sample_index, std::uint32_t num_blocks, bool plain) {
            if (num_blocks % 8 != 0) throw std::invalid_argument("num_blocks must be a multiple of 8");
            py::array_t<std::uint32_t> result(py::ssize_t{4} * num_blocks);
            const auto words = plain ? meap::detail::philox_words_plain : meap::philox_words;
            words({std::get<0>(key), std::get<1>(key)}, first_block, stream, sample_index, num_blocks,
                  result.mutable_data());
            return result;
        },
        "key"_a, "first_block"_a, "stream"_a, "sample_index"_a, "num_blocks"_a, "plain"_a,
        "Return uint32[4 * num_blocks], by plain C++ or by the fastest code for this processor. For tests.");

    m.def(
        "bounded_integers",
        [](std::tuple<std::uint32_t, std::uint32_t> key, std::uint32_t stream, std::uint64_t sample_index,
           std::uint32_t first_range, std::size_t count) {
            py::array_t<std::uint32_t> result(static_cast<py::ssize_t>(count));
            meap::WordStream words({std::get<0>(key), std::get<1>(key)}, stream, sample_index);
            words.below_ascending(first_range, count, result.mutable_data());
            return result;
        },
        "key"_a, "stream"_a, "sample_index"_a, "first_range"_a, "count"_a,
        "Return uint32[count]: item i is uniform in 0..first_range+i-1. For tests: ranges near 2**32 reject often.");

    m.def(
        "choose_positions",
        [](const std::string& strategy, std::uint64_t seed, std::uint64_t dataset_key, std::uint64_t sample_index,
           std::int64_t num_eligible, std::int64_t count, std::int64_t span_length, std::uint64_t step) {
            const meap::Draw draw{
                meap::mask_key(seed, dataset_key), sample_index, num_eligible, count, span_length, step};
            check(draw);
            Positions result(count);
            if (count > 0) meap::strategy_named(strategy).choose(draw, result.mutable_data());
            return result;
        },
        "strategy"_a, "seed"_a, "dataset_key"_a, "sample_index"_a, "num_eligible"_a, "count"_a, "span_length"_a,
        "step"_a, "Return int64[count], ascending, distinct integers of 0..num_eligible-1.");

    meap::gpt::register_gpt(m);
    meap::sft::register_sft(m);
}
