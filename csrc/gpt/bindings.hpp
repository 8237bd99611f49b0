// The Python face of the pre-training headers. The caller is meap_megatron.datasets.assembly.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "corruption/read.hpp"
#include "gpt/sample.hpp"
#include "strategies/registry.hpp"

namespace meap::gpt {

namespace py = pybind11;

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// From meap_megatron.datasets.mask_stage.MaskStage.
inline MaskRules read_mask(const py::object& stage) {
    const py::object settings = stage.attr("mask");
    MaskRules mask;
    mask.strategy = &strategy_named(read<std::string>(settings, "strategy"));
    mask.ratio = read_ratio(stage);
    mask.replacement = read_replacement(settings);
    mask.span_length = read<std::int64_t>(settings, "span_length");
    mask.skip_first = read<std::int64_t>(settings, "skip_first");
    mask.min_document_tokens = read<std::int64_t>(settings, "min_document_tokens");
    mask.protected_ids = read<std::vector<std::int64_t>>(settings, "protected_ids");
    if (mask.strategy->follows_step) mask.global_batch_size = read<std::int64_t>(settings, "global_batch_size");
    mask.key = mask_key(read<std::uint64_t>(settings, "seed"), read<std::uint64_t>(stage, "dataset_key"));
    // What would divide by zero or write outside a buffer; MaskConfig has the rules and their messages.
    if (mask.span_length < 1) throw std::invalid_argument("span_length must be at least 1");
    if (mask.skip_first < 0) throw std::invalid_argument("skip_first must be at least 0");
    if (mask.global_batch_size < 1) throw std::invalid_argument("global_batch_size must be at least 1");
    return mask;
}

// Changes the tokens of single samples: what GPTSamples does inside, for callers with tokens of their own.
class PyCorruptor {
  public:
    explicit PyCorruptor(const py::object& stage) : rules_(read_mask(stage)) {}

    py::tuple apply(const Array<std::int64_t>& tokens, std::int64_t sample_index, std::int64_t num_real,
                    Ranges barred) const {
        const std::int64_t size = tokens.size();
        if (tokens.ndim() != 1 || num_real < 0 || num_real > size || sample_index < 0) {
            throw std::invalid_argument("tokens must have one dimension, num_real be in 0..its size");
        }
        py::array_t<std::int64_t> changed(size);
        py::array_t<float> marks(size);
        std::copy_n(tokens.data(), size, changed.mutable_data());
        std::fill_n(marks.mutable_data(), size, 0.0f);
        corrupt(rules_, sample_index, num_real, size, barred, changed.mutable_data(), marks.mutable_data());
        return py::make_tuple(changed, marks);
    }

  private:
    MaskRules rules_;
};

// Makes the samples of one split; keeps its arrays alive, and the objects that own the memory maps behind them.
class PySamples {
  public:
    // Attributes are read by name from meap_megatron.datasets.assembly.SampleArrays and SampleRules, and from
    // meap_megatron.datasets.mask_stage.MaskStage (None: nothing is masked).
    PySamples(const py::object& arrays, const py::object& rules, const py::object& stage, py::object wrap)
        : kept_{arrays}, wrap_(std::move(wrap)), has_segments_(read<bool>(rules, "has_segments")) {
        read_source(arrays);
        rules_.sequence_length = read<std::int64_t>(rules, "sequence_length");
        if (rules_.sequence_length < 1 || rules_.sequence_length > std::numeric_limits<std::int32_t>::max() - 1) {
            throw std::invalid_argument("sequence_length must be in 1..2147483646");
        }
        rules_.num_extra = read<bool>(rules, "add_extra_token") ? 1 : 0;
        rules_.pad_id = read<std::int64_t>(rules, "pad_id");
        rules_.eod_id = read<std::int64_t>(rules, "eod_id");
        rules_.eod_mask_loss = read<bool>(rules, "eod_mask_loss");
        rules_.reset_position_ids = read<bool>(rules, "reset_position_ids");
        rules_.mark_changes = read<bool>(rules, "mark_changes");
        rules_.num_real_of_last = std::min(read<std::int64_t>(rules, "num_real_of_last"), rules_.sequence_length);
        if (!stage.is_none()) rules_.mask = read_mask(stage);
    }

    // A dict of the fields that differ between samples: tokens, labels, loss_mask, position_ids if they are reset,
    // cu_seqlens and max_seqlen with segments.
    py::dict sample(std::int64_t index, bool is_batch_padding) const {
        index = checked(index);
        const auto size = static_cast<py::ssize_t>(rules_.sequence_length);
        const bool is_masked = rules_.mask.strategy != nullptr && !is_batch_padding;
        py::dict fields;
        Out out;
        if (is_masked || rules_.num_extra == 0) {
            set(fields, tokens_, make({size}, &out.tokens));
            set(fields, labels_, make({size}, &out.labels));
        } else {  // views of one buffer, as Megatron's
            const py::array text = make({size + 1}, &out.tokens);
            out.labels = out.tokens + 1;
            set(fields, tokens_, py::array_t<std::int64_t>(size, out.tokens, text));
            set(fields, labels_, py::array_t<std::int64_t>(size, out.labels, text));
        }
        set(fields, loss_mask_, make({size}, &out.loss_mask));
        if (has_segments_ || rules_.reset_position_ids) set(fields, position_ids_, make({size}, &out.position_ids));
        if (has_segments_) {
            set(fields, cu_seqlens_, make({size + 1}, &out.cu_seqlens));
            set(fields, max_seqlen_, make({}, &out.max_seqlen));
        }
        {
            py::gil_scoped_release released;
            make_sample(source_, rules_, index, is_batch_padding, out);
        }
        return fields;
    }

    // A dict of all fields, each with one row per index.
    py::dict batch(std::vector<std::int64_t> indices) const {
        for (std::int64_t& index : indices) index = checked(index);
        const auto rows = static_cast<py::ssize_t>(indices.size());
        const auto size = static_cast<py::ssize_t>(rules_.sequence_length);
        py::dict fields;
        Out out;
        set(fields, tokens_, make({rows, size}, &out.tokens));
        set(fields, labels_, make({rows, size}, &out.labels));
        set(fields, loss_mask_, make({rows, size}, &out.loss_mask));
        set(fields, position_ids_, make({rows, size}, &out.position_ids));
        if (has_segments_) {
            set(fields, cu_seqlens_, make({rows, size + 1}, &out.cu_seqlens));
            set(fields, max_seqlen_, make({rows}, &out.max_seqlen));
        }
        {
            py::gil_scoped_release released;
            for (const std::int64_t index : indices) {
                make_sample(source_, rules_, index, false, out);
                out.tokens += size;
                out.labels += size;
                out.loss_mask += size;
                out.position_ids += size;
                if (has_segments_) {
                    out.cu_seqlens += size + 1;
                    out.max_seqlen += 1;
                }
            }
        }
        return fields;
    }

    std::int64_t size() const { return source_.num_samples; }

  private:
    template <typename T>
    static bool is(const py::object& array) {
        return py::isinstance<Array<T>>(array);
    }

    template <typename T>
    static py::array make(std::initializer_list<py::ssize_t> shape, T** data) {
        py::array_t<T> array(shape);
        *data = array.mutable_data();
        return std::move(array);
    }

    void set(const py::dict& fields, const py::str& name, const py::array& array) const {
        const auto value = py::reinterpret_steal<py::object>(PyObject_CallOneArg(wrap_.ptr(), array.ptr()));
        if (!value || PyDict_SetItem(fields.ptr(), name.ptr(), value.ptr()) != 0) throw py::error_already_set();
    }

    // An array attribute, kept alive; it is never converted.
    template <typename T>
    Array<T> read_array(const py::object& arrays, const char* name) {
        const py::object found = arrays.attr(name);
        if (!is<T>(found)) throw std::invalid_argument(std::string(name) + " has another type, or is not contiguous");
        kept_.push_back(found);
        return py::reinterpret_borrow<Array<T>>(found);
    }

    void read_source(const py::object& arrays) {
        const auto any = [&](const char* name) {
            kept_.push_back(arrays.attr(name));
            return py::reinterpret_borrow<py::array>(kept_.back());
        };
        const py::array ids = any("ids"), sample_index = any("sample_index"), shuffle_index = any("shuffle_index");
        const auto pointers = read_array<std::int64_t>(arrays, "pointers");
        const auto lengths = read_array<std::int32_t>(arrays, "lengths");
        const auto document_index = read_array<std::int32_t>(arrays, "document_index");
        const bool is_narrow = is<std::uint16_t>(ids);
        source_.has_wide_sample_index = is<std::int64_t>(sample_index);
        source_.has_wide_shuffle_index = is<std::int64_t>(shuffle_index);
        if (!is_narrow && !is<std::int32_t>(ids)) throw std::invalid_argument("ids must be uint16 or int32");
        if (!source_.has_wide_sample_index && !is<std::int32_t>(sample_index)) {
            throw std::invalid_argument("sample_index must be int32 or int64");
        }
        if (!source_.has_wide_shuffle_index && !is<std::uint32_t>(shuffle_index)) {
            throw std::invalid_argument("shuffle_index must be uint32 or int64");
        }
        if (pointers.size() != lengths.size()) throw std::invalid_argument("pointers and lengths differ in size");
        if (shuffle_index.ndim() != 1 || sample_index.ndim() != 2 || sample_index.shape(1) != 2 ||
            sample_index.shape(0) != shuffle_index.shape(0) + 1) {
            throw DamagedIndex("the sample index has not one row more than the shuffle index has entries");
        }
        source_.ids = ids.data();
        source_.id_bytes = is_narrow ? 2 : 4;
        source_.num_ids = ids.size();
        source_.pointers = py::array(pointers).data();
        source_.lengths = py::array(lengths).data();
        source_.num_documents = lengths.size();
        source_.document_index = py::array(document_index).data();
        source_.num_entries = document_index.size();
        source_.sample_index = sample_index.data();
        source_.shuffle_index = shuffle_index.data();
        source_.num_samples = shuffle_index.size();
    }

    // -1 is the last sample, as for Megatron.
    std::int64_t checked(std::int64_t index) const {
        if (index < -source_.num_samples || index >= source_.num_samples) {
            throw py::index_error("sample " + std::to_string(index) + " of " + std::to_string(source_.num_samples));
        }
        return index < 0 ? index + source_.num_samples : index;
    }

    std::vector<py::object> kept_;
    py::object wrap_;
    py::str tokens_{"tokens"}, labels_{"labels"}, loss_mask_{"loss_mask"}, position_ids_{"position_ids"},
        cu_seqlens_{"cu_seqlens"}, max_seqlen_{"max_seqlen"};
    Source source_;
    Rules rules_;
    bool has_segments_;
};

inline void register_gpt(py::module_& m) {
    using namespace py::literals;

    py::class_<PyCorruptor>(m, "Corruptor",
                            "Changes tokens as a MaskStage says; see meap_megatron.datasets.mask_stage.")
        .def(py::init<const py::object&>(), "stage"_a)
        .def(
            "apply", &PyCorruptor::apply, "tokens"_a.noconvert(), "sample_index"_a, "num_real"_a, "barred"_a,
            "Return changed tokens int64[n], and float32[n], what stage.mark_changes adds to the loss mask. `barred`: "
            "ascending ranges [start, stop) of documents that are too short.");

    py::class_<PySamples>(
        m, "GPTSamples", "Makes the samples of one split of one indexed dataset; see meap_megatron.datasets.assembly.")
        .def(py::init<const py::object&, const py::object&, const py::object&, py::object>(), py::kw_only(),
             "arrays"_a, "rules"_a, "stage"_a, "wrap"_a)
        .def("__len__", &PySamples::size)
        .def("sample", &PySamples::sample, "index"_a, "is_batch_padding"_a,
             "Return the fields of one sample that differ between samples, each array given to `wrap`. Computed "
             "without the GIL.")
        .def("batch", &PySamples::batch, "indices"_a,
             "Return all fields, each with one row per index, each array given to `wrap`. Computed without the GIL.");
}

}  // namespace meap::gpt
