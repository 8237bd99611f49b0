// Strategy `random`: uniform over all sets of `count` positions. Known answer (seed 1234, dataset key
// 0x0123456789abcdef, sample 7): 15 eligible, 5 chosen -> 0 2 5 11 12.
#pragma once

#include "random/choose.hpp"
#include "strategies/strategy.hpp"

namespace meap {

inline void random_positions(const Draw& draw, std::int64_t* chosen) {
    WordStream words(draw.key, kRandomStream, draw.sample_index);
    if (draw.in_order) {
        choose_sorted(words, draw.num_eligible, draw.count, chosen);
    } else {
        choose(words, draw.num_eligible, draw.count, [&](std::int64_t integer) { *chosen++ = integer; });
    }
}

inline constexpr Strategy kRandom{"random", false, random_positions};

}  // namespace meap
