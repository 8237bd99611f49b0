// Which segments one epoch holds: originals, copies, or joined pairs. Specification: datasets/sft/reference.py.
#pragma once

#include <cstdint>
#include <vector>

#include "sft/source.hpp"

namespace meap::sft {

struct ItemRules {
    bool has_copies;      // layouts `separate` and `concat`
    bool is_joined;       // layout `concat`
    bool train_original;  // loss on the original
    std::int64_t min_answer_tokens;
    std::int64_t sequence_length;
};

struct Items {
    std::vector<std::uint32_t> items;
    std::vector<std::int32_t> lengths;
    std::int64_t num_too_long = 0;
    std::int64_t num_untrained = 0;
    std::int64_t num_unjoined = 0;

    void add(std::int64_t number, Kind kind, std::int64_t length) {
        items.push_back(static_cast<std::uint32_t>(4 * number + kind));
        lengths.push_back(static_cast<std::int32_t>(length));
    }
};

// numbers: int32[num_numbers], the conversations of the split.
inline Items find_items(const Source& source, const std::int32_t* numbers, std::int64_t num_numbers,
                        const ItemRules& rules) {
    Items found;
    for (std::int64_t i = 0; i < num_numbers; ++i) {
        const std::int64_t number = numbers[i];
        const Conversation conversation = read_conversation(source, number);
        const std::int64_t length = conversation.length - 1;
        if (length > rules.sequence_length) {
            ++found.num_too_long;
            continue;
        }
        bool has_copy = false;
        if (rules.has_copies && length > 0) {
            for_each_answer(conversation.roles, conversation.length, [&](const Answer& answer) {
                has_copy = answer.maskable && answer.num_tokens > rules.min_answer_tokens;
                return !has_copy;
            });
        }
        // The first token is not a label.
        const bool trains = length > 0 && (conversation.roles[1] != kPrompt ||
                                           run_end(conversation.roles, 1, conversation.length) < conversation.length);
        const bool is_joined = has_copy && rules.is_joined && 2 * length + 1 <= rules.sequence_length;
        if (has_copy && rules.is_joined && !is_joined) ++found.num_unjoined;
        const std::size_t before = found.items.size();
        if (is_joined) {
            found.add(number, kJoined, 2 * length + 1);
        } else {
            if (trains && rules.train_original) found.add(number, kOriginal, length);
            if (has_copy && !rules.is_joined) found.add(number, kCopy, length);
        }
        if (found.items.size() == before) ++found.num_untrained;
    }
    return found;
}

}  // namespace meap::sft
