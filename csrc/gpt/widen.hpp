// Token ids of a file to the int64 of a sample: AVX2 where the processor has it, plain C++ elsewhere.
//
// The loops are written once; the compiler makes SIMD of them for the instruction set of the function they are in.
#pragma once

#include <cstdint>
#include <limits>

#include "random/cpu_features.hpp"

namespace meap {
namespace detail {

// Write ids[i] to first[i] and, unless it is null, to second[i]; tell whether one of them is `wanted`.
template <typename Id>
[[gnu::always_inline]] inline bool widen_loop(const Id* ids, std::int64_t count, std::int64_t wanted,
                                              std::int64_t* first, std::int64_t* second) {
    if (second == nullptr) {
        for (std::int64_t i = 0; i < count; ++i) first[i] = ids[i];
    } else {
        std::int64_t* const __restrict one = first;
        std::int64_t* const __restrict other = second;
        for (std::int64_t i = 0; i < count; ++i) {
            const std::int64_t id = ids[i];
            one[i] = id;
            other[i] = id;
        }
    }
    if (wanted < std::numeric_limits<Id>::min() || wanted > std::numeric_limits<Id>::max()) return false;
    const Id narrow = static_cast<Id>(wanted);
    Id found = 0;
    for (std::int64_t i = 0; i < count; ++i) found = static_cast<Id>(found | (ids[i] == narrow ? 1 : 0));
    return found != 0;
}

template <typename Id>
[[gnu::noinline]] inline bool widen_plain(const Id* ids, std::int64_t count, std::int64_t wanted, std::int64_t* first,
                                          std::int64_t* second) {
    return widen_loop(ids, count, wanted, first, second);
}

#ifdef MEAP_HAS_AVX2_CODE
template <typename Id>
[[gnu::noinline, gnu::target("avx2")]] inline bool widen_avx2(const Id* ids, std::int64_t count, std::int64_t wanted,
                                                              std::int64_t* first, std::int64_t* second) {
    return widen_loop(ids, count, wanted, first, second);
}
#endif

}  // namespace detail

// Write ids[i] to first[i] and, unless it is null, to second[i]; tell whether one of them is `wanted`. The two targets
// do not overlap each other.
template <typename Id>
inline bool widen(const Id* ids, std::int64_t count, std::int64_t wanted, std::int64_t* first, std::int64_t* second) {
#ifdef MEAP_HAS_AVX2_CODE
    if (detail::kUseAvx2) return detail::widen_avx2(ids, count, wanted, first, second);
#endif
    return detail::widen_plain(ids, count, wanted, first, second);
}

}  // namespace meap
