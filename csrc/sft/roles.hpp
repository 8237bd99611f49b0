// The byte beside each token of a conversation, and the answers that the bytes describe.
//
// The specification is meap_megatron/datasets/sft/answer_masks.py, which also says what the values mean.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace meap::sft {

enum Role : std::uint8_t { kPrompt = 0, kAnswer = 1, kEnd = 2, kShortAnswer = 3, kCut = 64 };

// The arrays behind an index file start at odd offsets, so its numbers may not be aligned.
template <typename T>
inline T load(const void* base, std::int64_t index) {
    T value;
    std::memcpy(&value, static_cast<const char*>(base) + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
    return value;
}

// The end of the run of equal bytes that starts at `start`, eight bytes at a time.
inline std::int64_t run_end(const std::uint8_t* roles, std::int64_t start, std::int64_t size) {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "byte i of a word must be bits 8i..8i+7");
    const std::uint64_t same = roles[start] * std::uint64_t{0x0101010101010101};
    std::int64_t i = start + 1;
    for (; i + 8 <= size; i += 8) {
        const std::uint64_t different = load<std::uint64_t>(roles + i, 0) ^ same;
        if (different != 0) return i + __builtin_ctzll(different) / 8;
    }
    while (i < size && roles[i] == roles[start]) ++i;
    return i;
}

// One answer: its tokens start..stop-1, its number, and how many tokens it had before truncation, as far as known.
struct Answer {
    std::uint32_t number;
    std::int64_t start;
    std::int64_t stop;
    std::int64_t num_tokens;
    bool maskable;
};

// Call `visit(answer)` for the answers in order, until it returns false.
template <typename Visit>
inline void for_each_answer(const std::uint8_t* roles, std::int64_t size, Visit visit) {
    std::uint32_t number = 0;
    for (std::int64_t start = 0; start < size;) {
        const std::int64_t stop = run_end(roles, start, size);
        if (roles[start] == kAnswer || roles[start] == kShortAnswer) {
            std::int64_t num_tokens = stop - start;
            if (stop < size && roles[stop] >= kCut)
                num_tokens = std::max<std::int64_t>(num_tokens, roles[stop] - kCut);
            if (!visit(Answer{number, start, stop, num_tokens, roles[start] == kAnswer})) return;
            ++number;
        }
        start = stop;
    }
}

}  // namespace meap::sft
