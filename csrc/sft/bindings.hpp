// The Python face of the fine-tuning headers. Callers are meap_megatron.datasets.sft and its tests.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "corruption/read.hpp"
#include "sft/items.hpp"
#include "sft/pack.hpp"
#include "sft/row.hpp"

namespace meap::sft {

namespace py = pybind11;

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// A vector becomes an array without a copy.
template <typename T>
py::array_t<T> to_array(std::vector<T>&& values) {
    auto owner = std::make_unique<std::vector<T>>(std::move(values));
    const auto size = static_cast<py::ssize_t>(owner->size());
    T* const data = owner->data();
    py::capsule free(owner.release(), [](void* pointer) { delete static_cast<std::vector<T>*>(pointer); });
    return py::array_t<T>(size, data, free);
}

// The arrays of one prefix, kept alive.
class PySource {
  public:
    PySource(py::array ids, Array<std::int64_t> id_pointers, Array<std::uint8_t> roles,
             Array<std::int64_t> role_pointers, Array<std::int32_t> lengths)
        : kept_{ids, id_pointers, roles, role_pointers, lengths} {
        const bool is_narrow = py::isinstance<Array<std::uint16_t>>(ids);
        if (!is_narrow && !py::isinstance<Array<std::int32_t>>(ids)) {
            throw std::invalid_argument("ids must be a contiguous array of uint16 or int32");
        }
        if (id_pointers.size() != lengths.size() || role_pointers.size() != lengths.size()) {
            throw std::invalid_argument("pointers and lengths must have one entry per conversation");
        }
        source_.ids = ids.data();
        source_.id_bytes = is_narrow ? 2 : 4;
        source_.num_ids = ids.size();
        source_.id_pointers = py::array(id_pointers).data();
        source_.roles = roles.data();
        source_.num_roles = roles.size();
        source_.role_pointers = py::array(role_pointers).data();
        source_.lengths = py::array(lengths).data();
        source_.num_conversations = lengths.size();
    }

    const Source& get() const { return source_; }

    py::tuple find_items(const Array<std::int32_t>& numbers, bool has_copies, bool is_joined, bool train_original,
                         std::int64_t min_answer_tokens, std::int64_t sequence_length) const {
        const ItemRules rules{has_copies, is_joined, train_original, min_answer_tokens, sequence_length};
        const std::int32_t* const data = numbers.data();
        const std::int64_t size = numbers.size();
        Items found;
        {
            py::gil_scoped_release released;
            found = meap::sft::find_items(source_, data, size, rules);
        }
        return py::make_tuple(to_array(std::move(found.items)), to_array(std::move(found.lengths)), found.num_too_long,
                              found.num_untrained, found.num_unjoined);
    }

  private:
    std::vector<py::object> kept_;
    Source source_;
};

// What it takes to make a row out of its items.
class PyRows {
  public:
    // Attributes are read by name from meap_megatron.datasets.sft.config.SFTConfig.
    PyRows(std::shared_ptr<PySource> source, const py::object& config, std::int64_t sequence_length,
           std::uint64_t dataset_key, bool mark_changes, Array<std::int64_t> mask_offsets,
           Array<std::int32_t> mask_positions, std::int64_t first_conversation)
        : source_(std::move(source)),
          mask_offsets_(std::move(mask_offsets)),
          mask_positions_(std::move(mask_positions)) {
        if (sequence_length < 1 || sequence_length > std::numeric_limits<std::int32_t>::max() - 1) {
            throw std::invalid_argument("sequence_length must be in 1..2147483646");
        }
        rules_.sequence_length = sequence_length;
        rules_.replacement = read_replacement(config);
        rules_.pad_id = read<std::int64_t>(config, "pad_id");
        rules_.min_answer_tokens = read<std::int64_t>(config, "min_answer_tokens");
        rules_.ratio = read<double>(config, "ratio");
        rules_.train_original = read<std::string>(config, "loss_on_original") != "none";
        const auto copy_loss = read<std::string>(config, "loss_on_copy");
        rules_.copy_loss = copy_loss == "masked"       ? CopyLoss::kMasked
                           : copy_loss == "all_answer" ? CopyLoss::kAnswer
                                                       : CopyLoss::kAnswerAndEnd;
        rules_.copy_first = read<std::string>(config, "concat_order") == "mask_first";
        rules_.mark_changes = mark_changes;
        rules_.key = mask_key(read<std::uint64_t>(config, "seed"), dataset_key);
        if (mask_offsets_.size() == 0) return;
        const std::int64_t* const offsets = mask_offsets_.data();
        for (py::ssize_t i = 1; i < mask_offsets_.size(); ++i) {
            if (offsets[i] < offsets[i - 1]) throw std::invalid_argument("mask_offsets must ascend");
        }
        if (offsets[0] != 0 || offsets[mask_offsets_.size() - 1] != mask_positions_.size()) {
            throw std::invalid_argument("mask_offsets must run from 0 to the number of mask_positions");
        }
        drawn_ = {offsets, mask_positions_.data(), first_conversation, mask_offsets_.size() - 1};
    }

    py::tuple row(const Array<std::uint32_t>& items, std::uint32_t epoch) const {
        const auto size = static_cast<py::ssize_t>(rules_.sequence_length);
        py::array_t<std::int64_t> tokens(size), labels(size), position_ids(size);
        py::array_t<float> loss_mask(size);
        py::array_t<std::int32_t> cu_seqlens(size + 1);
        const RowOut out{tokens.mutable_data(), labels.mutable_data(), loss_mask.mutable_data(),
                         position_ids.mutable_data(), cu_seqlens.mutable_data()};
        const std::uint32_t* const data = items.data();
        const std::int64_t num_items = items.size();
        py::array_t<std::int32_t> max_seqlen(std::vector<py::ssize_t>{});
        std::int32_t* const longest = max_seqlen.mutable_data();
        {
            py::gil_scoped_release released;
            *longest = make_row(source_->get(), rules_, drawn_, data, num_items, epoch, out);
        }
        return py::make_tuple(tokens, labels, loss_mask, position_ids, cu_seqlens, max_seqlen);
    }

  private:
    std::shared_ptr<PySource> source_;
    Array<std::int64_t> mask_offsets_;
    Array<std::int32_t> mask_positions_;
    RowRules rules_;
    DrawnMasks drawn_;
};

inline py::tuple py_pack(const Array<std::int32_t>& lengths, std::int64_t capacity, std::int64_t window) {
    constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max() - 1;
    if (capacity < 1 || capacity > kMost) throw std::invalid_argument("capacity must be in 1..2147483646");
    if (window < 1) throw std::invalid_argument("window must be at least 1");
    window = std::min(window, kMost);
    py::array_t<std::uint32_t> members(lengths.size());
    const std::int32_t* const data = lengths.data();
    const std::int64_t size = lengths.size();
    std::uint32_t* const out = members.mutable_data();
    std::vector<std::int64_t> offsets;
    {
        py::gil_scoped_release released;
        offsets = pack(data, size, capacity, window, out);
    }
    return py::make_tuple(to_array(std::move(offsets)), members);
}

inline void register_sft(py::module_& m) {
    using namespace py::literals;

    py::class_<PySource, std::shared_ptr<PySource>>(m, "SFTSource",
                                                    "The arrays of one prefix, none of them copied. See "
                                                    "meap_megatron.datasets.sft.data.")
        .def(py::init<py::array, Array<std::int64_t>, Array<std::uint8_t>, Array<std::int64_t>, Array<std::int32_t>>(),
             "ids"_a.noconvert(), "id_pointers"_a.noconvert(), "roles"_a.noconvert(), "role_pointers"_a.noconvert(),
             "lengths"_a.noconvert())
        .def("find_items", &PySource::find_items, "numbers"_a.noconvert(), "has_copies"_a, "is_joined"_a,
             "train_original"_a, "min_answer_tokens"_a, "sequence_length"_a,
             "Return (items, lengths, num_too_long, num_untrained, num_unjoined); see datasets.sft.reference.");

    py::class_<PyRows>(m, "SFTRows", "Makes rows; see meap_megatron.datasets.sft.reference.make_row.")
        .def(py::init<std::shared_ptr<PySource>, const py::object&, std::int64_t, std::uint64_t, bool,
                      Array<std::int64_t>, Array<std::int32_t>, std::int64_t>(),
             "source"_a, "config"_a, "sequence_length"_a, "dataset_key"_a, "mark_changes"_a,
             "mask_offsets"_a.noconvert(), "mask_positions"_a.noconvert(), "first_conversation"_a)
        .def("row", &PyRows::row, "items"_a.noconvert(), "epoch"_a,
             "Return (tokens, labels, loss_mask, position_ids, cu_seqlens, max_seqlen) of the row of these items.");

    m.def("sft_pack", &py_pack, "lengths"_a.noconvert(), "capacity"_a, "window"_a,
          "Return (offsets int64[num_rows + 1], members uint32[n]); see datasets.sft.reference.pack.");
}

}  // namespace meap::sft
