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

#include "gpt_sample.hpp"

namespace meap::gpt {

namespace py = pybind11;

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// Makes the samples of one split; keeps its arrays alive, and the objects that own the memory maps behind them.
class PySamples {
  public:
    PySamples(py::array ids, Array<std::int64_t> pointers, Array<std::int32_t> lengths,
              Array<std::int32_t> document_index, py::array sample_index, py::array shuffle_index,
              std::int64_t sequence_length, bool add_extra_token, std::int64_t pad_id, std::int64_t eod_id,
              bool eod_mask_loss, bool reset_position_ids, bool has_segments, std::int64_t num_real_of_last,
              const std::string& strategy, double ratio, std::int64_t mask_id, std::int64_t span_length,
              std::int64_t global_batch_size, std::vector<std::int64_t> protected_ids, std::uint64_t seed,
              std::uint64_t dataset_key, py::object owners, py::object wrap)
        : kept_{ids, pointers, lengths, document_index, sample_index, shuffle_index, std::move(owners)},
          wrap_(std::move(wrap)),
          has_segments_(has_segments) {
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
        if (sequence_length < 1 || sequence_length > std::numeric_limits<std::int32_t>::max() - 1) {
            throw std::invalid_argument("sequence_length must be in 1..2147483646");
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
        rules_.sequence_length = sequence_length;
        rules_.num_extra = add_extra_token ? 1 : 0;
        rules_.pad_id = pad_id;
        rules_.eod_id = eod_id;
        rules_.eod_mask_loss = eod_mask_loss;
        rules_.reset_position_ids = reset_position_ids;
        rules_.num_real_of_last = std::min(num_real_of_last, sequence_length);
        rules_.mask = mask_rules(strategy, ratio, span_length, global_batch_size);
        rules_.mask.mask_id = mask_id;
        rules_.mask.protected_ids = std::move(protected_ids);
        rules_.mask.key = mask_key(seed, dataset_key);
    }

    // A dict of the fields that differ between samples: tokens, labels, loss_mask, position_ids if they are reset,
    // cu_seqlens and max_seqlen with segments.
    py::dict sample(std::int64_t index, bool is_batch_padding) const {
        index = checked(index);
        const auto size = static_cast<py::ssize_t>(rules_.sequence_length);
        const bool is_masked = rules_.mask.strategy != Strategy::kNone && !is_batch_padding;
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
    static bool is(const py::array& array) {
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

    static MaskRules mask_rules(const std::string& strategy, double ratio, std::int64_t span_length,
                                std::int64_t global_batch_size) {
        MaskRules rules;
        if (strategy == "none") return rules;
        if (strategy == "random") {
            rules.strategy = Strategy::kRandom;
        } else if (strategy == "span") {
            rules.strategy = Strategy::kSpan;
        } else if (strategy == "official51") {
            rules.strategy = Strategy::kOfficial51;
        } else {
            throw std::invalid_argument("strategy must be none, random, span or official51");
        }
        if (!(ratio > 0 && ratio < 1)) throw std::invalid_argument("ratio must be in (0, 1)");
        if (span_length < 1) throw std::invalid_argument("span_length must be at least 1");
        if (global_batch_size < 1) throw std::invalid_argument("global_batch_size must be at least 1");
        rules.ratio = ratio;
        rules.span_length = span_length;
        rules.global_batch_size = global_batch_size;
        return rules;
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

    py::class_<PySamples>(
        m, "GPTSamples", "Makes the samples of one split of one indexed dataset; see meap_megatron.datasets.assembly.")
        .def(py::init<py::array, Array<std::int64_t>, Array<std::int32_t>, Array<std::int32_t>, py::array, py::array,
                      std::int64_t, bool, std::int64_t, std::int64_t, bool, bool, bool, std::int64_t,
                      const std::string&, double, std::int64_t, std::int64_t, std::int64_t, std::vector<std::int64_t>,
                      std::uint64_t, std::uint64_t, py::object, py::object>(),
             py::kw_only(), "ids"_a.noconvert(), "pointers"_a.noconvert(), "lengths"_a.noconvert(),
             "document_index"_a.noconvert(), "sample_index"_a.noconvert(), "shuffle_index"_a.noconvert(),
             "sequence_length"_a, "add_extra_token"_a, "pad_id"_a, "eod_id"_a, "eod_mask_loss"_a,
             "reset_position_ids"_a, "has_segments"_a, "num_real_of_last"_a, "strategy"_a, "ratio"_a, "mask_id"_a,
             "span_length"_a, "global_batch_size"_a, "protected_ids"_a, "seed"_a, "dataset_key"_a, "owners"_a,
             "wrap"_a)
        .def("__len__", &PySamples::size)
        .def("sample", &PySamples::sample, "index"_a, "is_batch_padding"_a,
             "Return the fields of one sample that differ between samples, each array given to `wrap`. Computed "
             "without "
             "the GIL.")
        .def("batch", &PySamples::batch, "indices"_a,
             "Return all fields, each with one row per index, each array given to `wrap`. Computed without the GIL.");
}

}  // namespace meap::gpt
