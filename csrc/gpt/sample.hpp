// One sample of pre-training, from the memory maps in one pass: what Megatron's GPTDataset.__getitem__ returns, with
// masked inputs. The specification is MEAPGPTDataset's other path, `super().__getitem__` and then the mask stage; both
// give the same tensors bit for bit (tests/datasets/test_assembly.py).
#pragma once

#include <algorithm>
#include <cstdint>

#include "gpt/mask.hpp"
#include "gpt/source.hpp"
#include "gpt/widen.hpp"

namespace meap::gpt {

struct Rules {
    std::int64_t sequence_length = 0;
    std::int64_t num_extra = 1;  // 1: one token more is read, and all labels are data; 0: the last label is padding
    std::int64_t pad_id = 0;
    std::int64_t eod_id = 0;
    bool eod_mask_loss = false;
    bool reset_position_ids = false;
    bool mark_changes = false;          // add what is changed to loss_mask, as mask.hpp says
    std::int64_t num_real_of_last = 0;  // inputs with a label at the last place; sequence_length unless it is short
    MaskRules mask;
};

// Where one sample is written: sequence_length entries each, cu_seqlens one more. labels may be tokens + 1: one buffer
// of sequence_length + 1 tokens, as Megatron's, if nothing is masked and num_extra is 1.
struct Out {
    std::int64_t* tokens = nullptr;
    std::int64_t* labels = nullptr;
    float* loss_mask = nullptr;
    std::int64_t* position_ids = nullptr;  // null: not wanted
    std::int32_t* cu_seqlens = nullptr;    // null: not wanted
    std::int32_t* max_seqlen = nullptr;    // one number, with cu_seqlens
};

namespace detail {

// The bounds of the documents in a sample, as Megatron counts them: the extra token belongs to no document, padding
// belongs to the last one, an empty document is a segment of length 0.
class Bounds {
  public:
    Bounds(std::int32_t* cu_seqlens, std::int64_t sequence_length, std::int64_t place)
        : cu_seqlens_(cu_seqlens), sequence_length_(sequence_length), place_(place) {
        cu_seqlens_[0] = 0;
    }

    void add_part(std::int64_t end) {
        if (has_last_) write(last_);
        last_ = end;
        has_last_ = true;
    }

    // Write what is left and return how many segments there are.
    std::int64_t close(std::int64_t num_extra) {
        last_ -= num_extra;
        if (num_extra != 0 && last_ == before_last()) has_last_ = false;
        if ((has_last_ ? last_ : before_last()) < sequence_length_) {
            if (!has_last_ && num_ > 0) --num_;
            last_ = sequence_length_;
            has_last_ = true;
        }
        if (has_last_) write(last_);
        std::fill(cu_seqlens_ + num_ + 1, cu_seqlens_ + sequence_length_ + 1,
                  static_cast<std::int32_t>(sequence_length_));
        return num_;
    }

  private:
    std::int64_t before_last() const { return cu_seqlens_[num_]; }

    void write(std::int64_t end) {
        if (num_ == sequence_length_)
            damaged(place_, "has more documents, empty ones among them, than the sample has positions");
        if (end < before_last() || end > sequence_length_) damaged(place_, "has documents of negative length");
        cu_seqlens_[++num_] = static_cast<std::int32_t>(end);
    }

    std::int32_t* cu_seqlens_;
    std::int64_t sequence_length_;
    std::int64_t place_;
    std::int64_t num_ = 0;  // segments written
    std::int64_t last_ = 0;
    bool has_last_ = false;
};

inline void count_up(std::int64_t* position_ids, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) position_ids[i] = i;
}

// Write `count` ids as tokens `written`, ... of a text of which the inputs are all but the last token and the labels
// all but the first; tell whether one of them is the pad id.
template <typename Id>
inline bool write_part(const Id* ids, std::int64_t count, std::int64_t written, const Rules& rules, const Out& out) {
    if (count == 0) return false;
    if (out.labels == out.tokens + 1) return widen(ids, count, rules.pad_id, out.tokens + written, nullptr);
    bool has_pad = false;
    if (written == 0) {
        has_pad = *ids == rules.pad_id;
        out.tokens[0] = *ids;
        ++ids;
        --count;
        ++written;
    }
    const bool has_extra = written + count > rules.sequence_length;
    count -= has_extra ? 1 : 0;
    if (has_extra) {
        has_pad |= ids[count] == rules.pad_id;
        out.labels[rules.sequence_length - 1] = ids[count];
    }
    return widen(ids, count, rules.pad_id, out.tokens + written, out.labels + written - 1) || has_pad;
}

template <typename Id>
inline void make_sample(const Source& source, const Rules& rules, std::int64_t index, bool is_batch_padding,
                        const Out& out) {
    const std::int64_t length = rules.sequence_length;
    const std::int64_t place = place_of(source, index);
    std::int64_t written = 0;
    bool has_pad = rules.num_extra == 0;
    std::int64_t num_segments = 0;
    thread_local Ranges barred;
    barred.clear();
    {
        std::int32_t unused[1];
        Bounds bounds(out.cu_seqlens == nullptr ? unused : out.cu_seqlens, length, place);
        for_each_part<Id>(
            source, place, rules.num_extra, [&](const Id* ids, std::int64_t count, std::int64_t document) {
                if (document < rules.mask.min_document_tokens && count > 0)
                    barred.emplace_back(written, written + count);
                if (count > length + rules.num_extra - written) {
                    damaged(place, "has more than " + std::to_string(length + rules.num_extra) + " tokens");
                }
                has_pad |= write_part(ids, count, written, rules, out);
                written += count;
                if (out.cu_seqlens != nullptr) bounds.add_part(written);
            });
        if (out.cu_seqlens != nullptr) num_segments = bounds.close(rules.num_extra);
    }
    if (written < length + rules.num_extra || rules.num_extra == 0) {
        has_pad = true;
        std::fill(out.tokens + std::min(written, length), out.tokens + length, rules.pad_id);
        const std::int64_t num_labels = std::max<std::int64_t>(written - 1, 0);
        std::fill(out.labels + std::min(num_labels, length), out.labels + length, rules.pad_id);
    }

    std::fill(out.loss_mask, out.loss_mask + length, is_batch_padding ? 0.0f : 1.0f);
    if (rules.eod_mask_loss) {
        for (std::int64_t i = 0; i < length; ++i) out.loss_mask[i] *= out.tokens[i] == rules.eod_id ? 0.0f : 1.0f;
    }
    if (out.position_ids != nullptr) {
        if (out.cu_seqlens != nullptr) {
            for (std::int64_t segment = 0; segment < num_segments; ++segment) {
                const std::int64_t start = out.cu_seqlens[segment];
                count_up(out.position_ids + start, out.cu_seqlens[segment + 1] - start);
            }
        } else if (rules.reset_position_ids) {
            std::int64_t start = 0;
            for (std::int64_t i = 0; i < length; ++i) {
                out.position_ids[i] = i - start;
                if (out.tokens[i] == rules.eod_id) start = i + 1;
            }
        } else {
            count_up(out.position_ids, length);
        }
    }
    if (out.max_seqlen != nullptr) {
        std::int32_t longest = 0;
        for (std::int64_t segment = 0; segment < num_segments; ++segment) {
            longest = std::max(longest, out.cu_seqlens[segment + 1] - out.cu_seqlens[segment]);
        }
        *out.max_seqlen = longest;
    }
    // Megatron's rule: whatever equals the pad id is padding, wherever it is. Labels first: tokens may share them.
    if (has_pad) {
        for (std::int64_t i = 0; i < length; ++i) {
            if (out.labels[i] == rules.pad_id) out.loss_mask[i] = 0.0f;
        }
        std::replace(out.tokens, out.tokens + length, rules.pad_id, std::int64_t{0});
        std::replace(out.labels, out.labels + length, rules.pad_id, std::int64_t{0});
    }
    if (!is_batch_padding) {
        const bool is_last = place == source.num_samples - 1;
        corrupt(rules.mask, index, is_last ? rules.num_real_of_last : length, length, barred, out.tokens,
                rules.mark_changes ? out.loss_mask : nullptr);
    }
}

}  // namespace detail

// Write the sample with this index, 0 <= index < num_samples. A batch-padding sample has no loss and no mask.
inline void make_sample(const Source& source, const Rules& rules, std::int64_t index, bool is_batch_padding,
                        const Out& out) {
    if (source.id_bytes == 2) {
        detail::make_sample<std::uint16_t>(source, rules, index, is_batch_padding, out);
    } else {
        detail::make_sample<std::int32_t>(source, rules, index, is_batch_padding, out);
    }
}

}  // namespace meap::gpt
