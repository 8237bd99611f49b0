// MT19937 as CPython 3.12 uses it: seeding of an int below 2^32 (init_by_array with one word), getrandbits(k <= 32)
// (the top k bits of one output) and _randbelow_with_getrandbits. M. Matsumoto, T. Nishimura, ACM TOMACS 8 (1998).
// Known answer: seed 50, first outputs -> 7f5e8e61 db0eda40 4423f60d.
#pragma once

#include <array>
#include <cstdint>

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

}  // namespace meap
