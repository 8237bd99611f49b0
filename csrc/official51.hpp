// Strategy `official51`: the position sets of the official MEAP pre-training code, which seeds CPython's generator
// with 50 + step % 51 and calls random.sample(range(0, length - 1), count). Only 51 sets exist per length and count.
//
// What is reproduced of CPython 3.12: seeding of an int below 2^32 (init_by_array with one word), getrandbits(k <= 32)
// (the top k bits of one output of MT19937), _randbelow_with_getrandbits, and both branches of sample().
// MT19937: M. Matsumoto, T. Nishimura, ACM TOMACS 8 (1998). Known answers:
//
//   seed 50: first outputs                    -> 7f5e8e61 db0eda40 4423f60d
//   step 0, length 16, count 5 (pool branch)  -> 4 5 7 10 13
//   step 3, length 256, count 5 (set branch)  -> 55 116 157 218 227
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <vector>

namespace meap {

class MersenneTwister {
  public:
    explicit MersenneTwister(std::uint32_t seed) {
        state_[0] = 19650218u;
        for (std::uint32_t i = 1; i < kSize; ++i) {
            state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
        }
        std::uint32_t i = 1;
        for (std::uint32_t step = 0; step < kSize; ++step) {  // init_by_array with the one-word key {seed}
            state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1664525u)) + seed;
            advance(i);
        }
        for (std::uint32_t step = 1; step < kSize; ++step) {
            state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1566083941u)) - i;
            advance(i);
        }
        state_[0] = 0x80000000u;
    }

    std::uint32_t next() {
        if (used_ == kSize) refill();
        std::uint32_t word = state_[used_++];
        word ^= word >> 11;
        word ^= (word << 7) & 0x9D2C5680u;
        word ^= (word << 15) & 0xEFC60000u;
        return word ^ (word >> 18);
    }

    // CPython's _randbelow_with_getrandbits: a uniform integer in 0..range-1, range >= 1.
    std::uint32_t below(std::uint32_t range) {
        const int unused_bits = __builtin_clz(range);
        std::uint32_t drawn = next() >> unused_bits;
        while (drawn >= range) drawn = next() >> unused_bits;
        return drawn;
    }

  private:
    static constexpr std::uint32_t kSize = 624;
    static constexpr std::uint32_t kShift = 397;

    void advance(std::uint32_t& i) {
        if (++i == kSize) {
            state_[0] = state_[kSize - 1];
            i = 1;
        }
    }

    void refill() {
        for (std::uint32_t i = 0; i < kSize; ++i) {
            const std::uint32_t joined = (state_[i] & 0x80000000u) | (state_[(i + 1) % kSize] & 0x7FFFFFFFu);
            state_[i] = state_[(i + kShift) % kSize] ^ (joined >> 1) ^ ((joined & 1u) ? 0x9908B0DFu : 0u);
        }
        used_ = 0;
    }

    std::array<std::uint32_t, kSize> state_;
    std::uint32_t used_ = kSize;
};

namespace detail {

// CPython chooses the pool branch up to this population: the size of a set of `count` entries against that of a list.
inline std::int64_t pool_limit(std::int64_t count) {
    std::int64_t limit = 21;
    if (count > 5) {
        std::int64_t table = 1;  // 4 ** ceil(log(3 * count, 4)); 3 * count is never a power of 4
        while (table < 3 * count) table *= 4;
        limit += table;
    }
    return limit;
}

}  // namespace detail

// int64[count] in ascending order, of positions 0..length-2; 1 <= count <= length - 1.
inline void official51_positions(std::uint64_t step, std::int64_t length, std::int64_t count,
                                 std::int64_t* positions) {
    MersenneTwister generator(static_cast<std::uint32_t>(50 + step % 51));
    const std::int64_t population = length - 1;
    if (population <= detail::pool_limit(count)) {
        std::vector<std::int64_t> pool(static_cast<std::size_t>(population));
        std::iota(pool.begin(), pool.end(), std::int64_t{0});
        for (std::int64_t chosen = 0; chosen < count; ++chosen) {
            const std::uint32_t drawn = generator.below(static_cast<std::uint32_t>(population - chosen));
            positions[chosen] = pool[drawn];
            pool[drawn] = pool[static_cast<std::size_t>(population - chosen - 1)];
        }
    } else {
        std::vector<bool> taken(static_cast<std::size_t>(population), false);
        for (std::int64_t chosen = 0; chosen < count; ++chosen) {
            std::uint32_t drawn = generator.below(static_cast<std::uint32_t>(population));
            while (taken[drawn]) drawn = generator.below(static_cast<std::uint32_t>(population));
            taken[drawn] = true;
            positions[chosen] = drawn;
        }
    }
    std::sort(positions, positions + count);
}

}  // namespace meap
