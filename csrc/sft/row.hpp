// One row: inputs, labels, loss mask, position ids and segment bounds, from the memory maps in one pass.
//
// The specification is meap_megatron/datasets/sft/reference.py, `make_row`; both give the same arrays bit for bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "corruption/replace.hpp"
#include "gpt/mask.hpp"
#include "random/choose.hpp"
#include "random/philox.hpp"
#include "random/word_stream.hpp"
#include "sft/source.hpp"

namespace meap::sft {

// Which tokens of a masked copy are trained.
enum class CopyLoss { kMasked, kAnswer, kAnswerAndEnd };

struct RowRules {
    std::int64_t sequence_length = 0;
    Replacement replacement;
    std::int64_t pad_id = 0;
    std::int64_t min_answer_tokens = 0;
    double ratio = 0;
    bool train_original = true;  // loss on the original: answers and their ends, or nothing
    CopyLoss copy_loss = CopyLoss::kMasked;
    bool copy_first = false;    // order of a joined pair
    bool mark_changes = false;  // add what is changed to loss_mask: gpt/mask.hpp
    Key key{};                  // mask_key(seed, dataset_key)
};

// Positions drawn beforehand (sampler `official`); null pointers: drawn here (sampler `philox`).
struct DrawnMasks {
    const std::int64_t* offsets = nullptr;  // by conversation - first_conversation
    const std::int32_t* positions = nullptr;
    std::int64_t first_conversation = 0;
    std::int64_t num_conversations = 0;
};

// Where one row is written: sequence_length entries each, cu_seqlens one more.
struct RowOut {
    std::int64_t* tokens;
    std::int64_t* labels;
    float* loss_mask;
    std::int64_t* position_ids;
    std::int32_t* cu_seqlens;
};

// Call `mask(token)` for every masked token of a conversation.
template <typename Mask>
inline void for_each_masked(const Conversation& conversation, std::int64_t number, std::uint64_t epoch,
                            const RowRules& rules, const DrawnMasks& drawn, Mask mask) {
    if (drawn.offsets != nullptr) {
        const std::int64_t place = number - drawn.first_conversation;
        if (place < 0 || place >= drawn.num_conversations) throw std::out_of_range("no masks for this conversation");
        for (std::int64_t i = drawn.offsets[place]; i < drawn.offsets[place + 1]; ++i) {
            if (drawn.positions[i] < 0 || drawn.positions[i] >= conversation.length)
                throw std::out_of_range("masked token");
            mask(drawn.positions[i]);
        }
        return;
    }
    thread_local std::vector<std::int64_t> chosen;
    for_each_answer(conversation.roles, conversation.length, [&](const Answer& answer) {
        if (!answer.maskable || answer.num_tokens <= rules.min_answer_tokens) return true;
        const std::int64_t num_kept = answer.stop - answer.start;
        chosen.resize(static_cast<std::size_t>(num_masked(num_kept, rules.ratio)));
        WordStream words(rules.key, kAnswerStream + answer.number, static_cast<std::uint64_t>(number) + (epoch << 32));
        choose_sorted(words, num_kept, static_cast<std::int64_t>(chosen.size()), chosen.data());
        for (const std::int64_t token : chosen) mask(answer.start + token);
        return true;
    });
}

namespace detail {

// Write the tokens of one conversation into a segment of `size` tokens, from token `first` of it on. Inputs are the
// tokens 0..size-2, labels the tokens 1..size-1.
template <typename Id>
inline void write_half(const Conversation& conversation, bool is_copy, std::int64_t first, std::int64_t size,
                       const RowRules& rules, const RowOut& out) {
    const Id* const ids = static_cast<const Id*>(conversation.ids);
    const std::int64_t num_inputs = std::min(conversation.length, size - 1 - first);
    for (std::int64_t i = 0; i < num_inputs; ++i) out.tokens[first + i] = ids[i];
    const std::int64_t skipped = first == 0 ? 1 : 0;  // the first token of a segment is not a label
    std::int64_t* const labels = out.labels + first - 1;
    float* const loss_mask = out.loss_mask + first - 1;
    for (std::int64_t i = skipped; i < conversation.length; ++i) labels[i] = ids[i];
    if (!is_copy && rules.train_original) {
        for (std::int64_t i = skipped; i < conversation.length; ++i)
            loss_mask[i] = conversation.roles[i] != kPrompt ? 1.0f : 0.0f;
    } else if (is_copy && rules.copy_loss != CopyLoss::kMasked) {
        const bool has_end = rules.copy_loss == CopyLoss::kAnswerAndEnd;
        for (std::int64_t i = skipped; i < conversation.length; ++i) {
            const std::uint8_t role = conversation.roles[i];
            loss_mask[i] = role == kAnswer || role == kShortAnswer || (has_end && role != kPrompt) ? 1.0f : 0.0f;
        }
    } else {
        for (std::int64_t i = skipped; i < conversation.length; ++i) loss_mask[i] = 0.0f;
    }
}

}  // namespace detail

// Write one row and return the positions of its longest segment. items: uint32[num_items].
inline std::int32_t make_row(const Source& source, const RowRules& rules, const DrawnMasks& drawn,
                             const std::uint32_t* items, std::int64_t num_items, std::uint64_t epoch,
                             const RowOut& row) {
    std::int64_t start = 0, longest = 0;
    row.cu_seqlens[0] = 0;
    std::int64_t num_segments = 0;
    thread_local std::vector<std::int64_t> masked;
    thread_local std::vector<std::int32_t> ids;
    const auto close = [&](std::int64_t length) {
        for (std::int64_t i = 0; i < length; ++i) row.position_ids[start + i] = i;
        longest = std::max(longest, length);
        start += length;
        row.cu_seqlens[++num_segments] = static_cast<std::int32_t>(start);
    };
    for (std::int64_t i = 0; i < num_items; ++i) {
        const std::int64_t number = items[i] / 4;
        const std::uint32_t kind = items[i] % 4;
        const Conversation conversation = read_conversation(source, number);
        const std::int64_t size = kind == kJoined ? 2 * conversation.length : conversation.length;
        if (size < 2 || size - 1 > rules.sequence_length - start) {
            throw std::out_of_range("the segments of a row do not fit into it: the index is of other data");
        }
        const RowOut out{row.tokens + start, row.labels + start, row.loss_mask + start, nullptr, nullptr};
        const auto write = [&](bool is_copy, std::int64_t first) {
            if (source.id_bytes == 2) {
                detail::write_half<std::uint16_t>(conversation, is_copy, first, size, rules, out);
            } else {
                detail::write_half<std::int32_t>(conversation, is_copy, first, size, rules, out);
            }
        };
        std::int64_t copy_first_token = 0;
        if (kind == kJoined) {
            copy_first_token = rules.copy_first ? 0 : conversation.length;
            write(rules.copy_first, 0);
            write(!rules.copy_first, conversation.length);
        } else {
            write(kind == kCopy, 0);
        }
        if (kind != kOriginal) {
            masked.clear();
            for_each_masked(conversation, number, epoch, rules, drawn,
                            [&](std::int64_t token) { masked.push_back(copy_first_token + token); });
            if (rules.copy_loss == CopyLoss::kMasked) {
                for (const std::int64_t place : masked) {
                    if (place > 0) out.loss_mask[place - 1] = 1.0f;
                }
            }
            ids.resize(masked.size());
            replacements(rules.replacement, rules.key, static_cast<std::uint64_t>(number) + (epoch << 32), ids.size(),
                         ids.data());
            for (std::size_t i = 0; i < masked.size(); ++i) {
                const std::int64_t place = masked[i];
                if (place >= size - 1 || ids[i] == kKept) continue;  // the last token is a label only
                out.tokens[place] = ids[i];
                if (!rules.mark_changes) continue;
                out.loss_mask[place] += gpt::kChangedInput;
                if (place > 0) out.loss_mask[place - 1] += gpt::kChangedTarget;
            }
        }
        close(size - 1);
    }
    if (start < rules.sequence_length) {
        std::fill(row.tokens + start, row.tokens + rules.sequence_length, rules.pad_id);
        std::fill(row.labels + start, row.labels + rules.sequence_length, rules.pad_id);
        std::fill(row.loss_mask + start, row.loss_mask + rules.sequence_length, 0.0f);
        close(rules.sequence_length - start);
    }
    std::fill(row.cu_seqlens + num_segments + 1, row.cu_seqlens + rules.sequence_length + 1,
              static_cast<std::int32_t>(rules.sequence_length));
    return static_cast<std::int32_t>(longest);
}

}  // namespace meap::sft
