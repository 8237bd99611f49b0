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

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

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

// The 4 * num_blocks words of blocks first_block, first_block + 1, ... of one stream. Not inlined: as a function with
// a run-time count the compiler makes SIMD of it, inside its callers it does not (measured: 2.5 times slower).
[[gnu::noinline]] inline void philox_words(Key key, std::uint32_t first_block, std::uint32_t stream,
                                           std::uint64_t sample_index, std::uint32_t num_blocks,
                                           std::uint32_t* words) {
    for (std::uint32_t block = 0; block < num_blocks; ++block) {
        const Counter made = philox4x32(
            {first_block + block, stream, detail::low_word(sample_index), detail::high_word(sample_index)}, key);
        for (std::size_t lane = 0; lane < 4; ++lane) words[4 * block + lane] = made[lane];
    }
}

// The words of one sample, in order: blocks (0, stream, sample), (1, stream, sample), ...
class WordStream {
  public:
    WordStream(Key key, std::uint32_t stream, std::uint64_t sample_index)
        : key_(key), stream_(stream), sample_index_(sample_index) {}

    std::uint32_t next() {
        if (used_ == kWords) refill();
        return words_[used_++];
    }

    // A uniform integer in 0..range-1, range >= 1: Lemire's multiply-shift, unbiased by rejection.
    std::uint32_t below(std::uint32_t range) {
        std::uint64_t product = std::uint64_t{next()} * range;
        if (detail::low_word(product) < range) {  // rare: range / 2^32
            const std::uint32_t threshold = (0u - range) % range;
            while (detail::low_word(product) < threshold) product = std::uint64_t{next()} * range;
        }
        return detail::high_word(product);
    }

    // out[i] = below(first_range + i) for i in 0..count-1. The loop has no branch: a piece in which a word may have to
    // be rejected (one in some thousands) is drawn again from its first word, one by one.
    void below_ascending(std::uint32_t first_range, std::size_t count, std::uint32_t* out) {
        while (count > 0) {
            if (used_ == kWords) refill();
            const std::size_t piece = std::min(count, kWords - used_);
            const std::uint32_t* const words = words_ + used_;
            std::uint32_t smallest = 0xFFFFFFFFu;
            for (std::size_t i = 0; i < piece; ++i) {
                const std::uint32_t range = first_range + static_cast<std::uint32_t>(i);
                const std::uint64_t product = std::uint64_t{words[i]} * range;
                out[i] = detail::high_word(product);
                smallest = std::min(smallest, detail::low_word(product));
            }
            if (smallest < first_range + static_cast<std::uint32_t>(piece)) {
                for (std::size_t i = 0; i < piece; ++i) out[i] = below(first_range + static_cast<std::uint32_t>(i));
            } else {
                used_ += piece;
            }
            first_range += static_cast<std::uint32_t>(piece);
            out += piece;
            count -= piece;
        }
    }

  private:
    static constexpr std::uint32_t kBlocks = 16;  // made at once
    static constexpr std::size_t kWords = std::size_t{4} * kBlocks;

    void refill() {
        philox_words(key_, block_, stream_, sample_index_, kBlocks, words_);
        block_ += kBlocks;
        used_ = 0;
    }

    Key key_;
    std::uint32_t stream_;
    std::uint64_t sample_index_;
    std::uint32_t block_ = 0;
    std::size_t used_ = kWords;
    std::uint32_t words_[kWords];
};

}  // namespace meap
