// Distinct random integers: what every masking strategy and the masks of answers are made of.
//
// The specification is `choose_sorted` in meap_megatron/masking/philox.py; both give the same integers bit for bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "random/philox.hpp"
#include "random/word_stream.hpp"

namespace meap {

namespace detail {

// Eight bytes that are 0 or 1 -> eight bits, byte i to bit i: the products land side by side in the top byte.
inline std::uint64_t pack_bytes(const std::uint8_t* bytes) {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "byte i of a word must be bits 8i..8i+7");
    std::uint64_t word;
    std::memcpy(&word, bytes, sizeof(word));
    return (word * 0x0102040810204080u) >> 56;
}

}  // namespace detail

// How many of `length` input positions, or tokens of an answer, are masked; ratio is in (0, 1). One IEEE product, as
// in the official code.
inline std::int64_t num_masked(std::int64_t length, double ratio) {
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::floor(static_cast<double>(length) * ratio)));
}

// Call `take(integer)` for `count` distinct integers of 0..num_candidates-1, uniform over all such sets: Floyd's
// algorithm. For last = num_candidates-count, ..., num_candidates-1 it draws from 0..last and takes the drawn one, or
// `last` if the drawn one was taken before. One byte per candidate and no branch: with one bit per candidate nearly
// every load would wait for the store before it (measured: half the speed). Returns the bytes, 1 where taken, padded
// with 0 to a multiple of 64; they last until the next call on this thread.
template <typename Take>
inline const std::uint8_t* choose(WordStream& words, std::int64_t num_candidates, std::int64_t count, Take take) {
    thread_local std::vector<std::uint8_t> taken;  // kept between calls: allocating costs as much as choosing
    taken.assign(static_cast<std::size_t>((num_candidates + 63) / 64 * 64), 0);
    std::uint8_t* const bytes = taken.data();
    std::uint32_t drawn[256];
    for (std::int64_t first = num_candidates - count; first < num_candidates;) {
        const std::int64_t piece = std::min<std::int64_t>(256, num_candidates - first);
        words.below_ascending(static_cast<std::uint32_t>(first) + 1u, static_cast<std::size_t>(piece), drawn);
        for (std::int64_t i = 0; i < piece; ++i) {
            const std::uint8_t before = bytes[drawn[i]];
            bytes[drawn[i]] = 1;
            bytes[first + i] |= before;
            take(drawn[i] + before * (first + i - drawn[i]));
        }
        first += piece;
    }
    return bytes;
}

// Write the integers that `choose` takes in ascending order.
inline void choose_sorted(WordStream& words, std::int64_t num_candidates, std::int64_t count, std::int64_t* chosen) {
    const std::uint8_t* const bytes = choose(words, num_candidates, count, [](std::int64_t) {});
    for (std::int64_t start = 0; start < num_candidates; start += 64) {
        std::uint64_t bits = 0;
        for (int byte = 0; byte < 8; ++byte) bits |= detail::pack_bytes(bytes + start + 8 * byte) << (8 * byte);
        for (; bits != 0; bits &= bits - 1) *chosen++ = start + __builtin_ctzll(bits);
    }
}

}  // namespace meap
