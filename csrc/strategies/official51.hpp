// Strategy `official51`: the position sets of the official MEAP pre-training code, which seeds CPython's generator
// with 50 + step % 51 and calls random.sample(range(0, length - 1), count). Only 51 sets exist per length and count.
//
// Both branches of CPython 3.12's sample() are reproduced. Known answers:
//
//   step 0, length 16, count 5 (pool branch)  -> 4 5 7 10 13
//   step 3, length 256, count 5 (set branch)  -> 55 116 157 218 227
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "random/mersenne_twister.hpp"
#include "strategies/strategy.hpp"

namespace meap {

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

// Of positions 0..num_eligible-1, in ascending order.
inline void official51_positions(const Draw& draw, std::int64_t* chosen) {
    MersenneTwister generator(static_cast<std::uint32_t>(50 + draw.step % 51));
    const std::int64_t population = draw.num_eligible;
    if (population <= detail::pool_limit(draw.count)) {
        std::vector<std::int64_t> pool(static_cast<std::size_t>(population));
        std::iota(pool.begin(), pool.end(), std::int64_t{0});
        for (std::int64_t i = 0; i < draw.count; ++i) {
            const std::uint32_t drawn = generator.below(static_cast<std::uint32_t>(population - i));
            chosen[i] = pool[drawn];
            pool[drawn] = pool[static_cast<std::size_t>(population - i - 1)];
        }
    } else {
        std::vector<bool> taken(static_cast<std::size_t>(population), false);
        for (std::int64_t i = 0; i < draw.count; ++i) {
            std::uint32_t drawn = generator.below(static_cast<std::uint32_t>(population));
            while (taken[drawn]) drawn = generator.below(static_cast<std::uint32_t>(population));
            taken[drawn] = true;
            chosen[i] = drawn;
        }
    }
    std::sort(chosen, chosen + draw.count);
}

inline constexpr Strategy kOfficial51{"official51", true, official51_positions};

}  // namespace meap
