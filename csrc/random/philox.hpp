// Philox 4x32-10: random words as a pure function of (key, counter), without state.
//
// J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11. Known answers, first three as published
// with the paper's library Random123 (kat_vectors), the last one a stream of this project (see WordStream):
//
//   counter 00000000 00000000 00000000 00000000  key 00000000 00000000 -> 6627e8d5 e169c58d bc57ac4c 9b00dbd8
//   counter ffffffff ffffffff ffffffff ffffffff  key ffffffff ffffffff -> 408f276d 41c83b0e a20bc7c6 6d5451fd
//   counter 243f6a88 85a308d3 13198a2e 03707344  key a4093822 299f31d0 -> d16cfe09 94fdcceb 5001e420 24126ea1
//   WordStream(mask_key(seed 1234, dataset_key 0x0123456789abcdef), stream 0, sample 7)
//                                                                     -> 355db5b7 021b09a8 37502dcc 66f19b31
//
// tests/masking/test_known_answers.py asserts all of them.
#pragma once

#include <array>
#include <cstdint>

namespace meap {

using Counter = std::array<std::uint32_t, 4>;
using Key = std::array<std::uint32_t, 2>;

namespace detail {

constexpr std::uint32_t kMultiplier0 = 0xD2511F53u;
constexpr std::uint32_t kMultiplier1 = 0xCD9E8D57u;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9u;
constexpr std::uint32_t kWeyl1 = 0xBB67AE85u;
constexpr int kRounds = 10;

inline std::uint32_t low_word(std::uint64_t value) {
    return static_cast<std::uint32_t>(value);
}
inline std::uint32_t high_word(std::uint64_t value) {
    return static_cast<std::uint32_t>(value >> 32);
}

}  // namespace detail

// The four words of one block.
inline Counter philox4x32(Counter counter, Key key) {
    using namespace detail;
    for (int round = 0; round < kRounds; ++round) {
        const std::uint64_t product0 = std::uint64_t{kMultiplier0} * counter[0];
        const std::uint64_t product1 = std::uint64_t{kMultiplier1} * counter[2];
        counter = {high_word(product1) ^ counter[1] ^ key[0], low_word(product1),
                   high_word(product0) ^ counter[3] ^ key[1], low_word(product0)};
        key[0] += kWeyl0;
        key[1] += kWeyl1;
    }
    return counter;
}

// The key of all samples of one dataset under one seed. 0x4D454150 is "MEAP": it keeps these blocks apart from any
// other use of the same seed.
inline Key mask_key(std::uint64_t seed, std::uint64_t dataset_key) {
    using namespace detail;
    const Counter words = philox4x32({low_word(dataset_key), high_word(dataset_key), 0x4D454150u, 0u},
                                     {low_word(seed), high_word(seed)});
    return {words[0], words[1]};
}

}  // namespace meap
