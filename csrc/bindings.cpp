// The Python face of the headers: meap_megatron._C. Callers are meap_megatron.masking and the tests; users call the
// former, which checks arguments. What is checked here keeps a wrong call from writing outside a buffer.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <tuple>

#include "gpt_bindings.hpp"
#include "official51.hpp"
#include "philox.hpp"
#include "philox_simd.hpp"
#include "sampler.hpp"
#include "sft_bindings.hpp"
#include "word_stream.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace {

using Positions = py::array_t<std::int64_t>;
using Indices = py::array_t<std::int64_t, py::array::c_style>;

void check_count(std::int64_t num_eligible, std::int64_t count, std::int64_t span_length = 1) {
    if (num_eligible < 0 || num_eligible > std::numeric_limits<std::int32_t>::max()) {
        throw std::invalid_argument("num_eligible must be in 0..2147483647");
    }
    if (count < 0 || count > num_eligible) throw std::invalid_argument("count must be in 0..num_eligible");
    if (span_length < 1) throw std::invalid_argument("span_length must be at least 1");
}

// Run `sample(key, sample_index, out)` for each index into one row of int64[num_samples, count], without the GIL.
template <typename Sample>
Positions rows(std::uint64_t seed, std::uint64_t dataset_key, const Indices& sample_indices, std::int64_t count,
               Sample sample) {
    if (sample_indices.ndim() != 1) throw std::invalid_argument("sample_indices must have one dimension");
    Positions result({sample_indices.shape(0), static_cast<py::ssize_t>(count)});
    if (result.size() == 0) return result;
    const std::int64_t* const indices = sample_indices.data();
    const py::ssize_t num_samples = sample_indices.shape(0);
    std::int64_t* const out = result.mutable_data();
    py::gil_scoped_release released;
    const meap::Key key = meap::mask_key(seed, dataset_key);
    for (py::ssize_t row = 0; row < num_samples; ++row) {
        sample(key, static_cast<std::uint64_t>(indices[row]), out + row * count);
    }
    return result;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "Native parts of meap_megatron. Call meap_megatron.masking, which checks arguments.";
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
        "random_positions",
        [](std::uint64_t seed, std::uint64_t dataset_key, std::uint64_t sample_index, std::int64_t num_eligible,
           std::int64_t count) {
            check_count(num_eligible, count);
            Positions result(count);
            if (count > 0) {
                meap::random_positions(meap::mask_key(seed, dataset_key), sample_index, num_eligible, count,
                                       result.mutable_data());
            }
            return result;
        },
        "seed"_a, "dataset_key"_a, "sample_index"_a, "num_eligible"_a, "count"_a,
        "Return int64[count], sorted, distinct indices in 0..num_eligible-1.");

    m.def(
        "span_positions",
        [](std::uint64_t seed, std::uint64_t dataset_key, std::uint64_t sample_index, std::int64_t num_eligible,
           std::int64_t count, std::int64_t span_length) {
            check_count(num_eligible, count, span_length);
            Positions result(count);
            if (count > 0) {
                meap::span_positions(meap::mask_key(seed, dataset_key), sample_index, num_eligible, count, span_length,
                                     result.mutable_data());
            }
            return result;
        },
        "seed"_a, "dataset_key"_a, "sample_index"_a, "num_eligible"_a, "count"_a, "span_length"_a,
        "Return int64[count], sorted: runs of span_length indices (one may be shorter) in 0..num_eligible-1.");

    m.def(
        "official51_positions",
        [](std::uint64_t step, std::int64_t length, std::int64_t count) {
            check_count(length - 1, count);
            Positions result(count);
            if (count > 0) meap::official51_positions(step, length, count, result.mutable_data());
            return result;
        },
        "step"_a, "length"_a, "count"_a,
        "Return int64[count], sorted: the positions which the official code masks at this optimizer step.");

    m.def(
        "random_positions_batch",
        [](std::uint64_t seed, std::uint64_t dataset_key, const Indices& sample_indices, std::int64_t num_eligible,
           std::int64_t count) {
            check_count(num_eligible, count);
            return rows(seed, dataset_key, sample_indices, count,
                        [=](meap::Key key, std::uint64_t sample_index, std::int64_t* out) {
                            meap::random_positions(key, sample_index, num_eligible, count, out);
                        });
        },
        "seed"_a, "dataset_key"_a, "sample_indices"_a, "num_eligible"_a, "count"_a,
        "Return int64[len(sample_indices), count]: random_positions of each sample, computed without the GIL.");

    m.def(
        "span_positions_batch",
        [](std::uint64_t seed, std::uint64_t dataset_key, const Indices& sample_indices, std::int64_t num_eligible,
           std::int64_t count, std::int64_t span_length) {
            check_count(num_eligible, count, span_length);
            return rows(seed, dataset_key, sample_indices, count,
                        [=](meap::Key key, std::uint64_t sample_index, std::int64_t* out) {
                            meap::span_positions(key, sample_index, num_eligible, count, span_length, out);
                        });
        },
        "seed"_a, "dataset_key"_a, "sample_indices"_a, "num_eligible"_a, "count"_a, "span_length"_a,
        "Return int64[len(sample_indices), count]: span_positions of each sample, computed without the GIL.");

    meap::gpt::register_gpt(m);
    meap::sft::register_sft(m);
}
