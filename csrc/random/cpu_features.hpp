// Which instructions this processor has, asked once when the module is loaded.
//
// MEAP_PLAIN leaves the AVX2 code out, for counts of instructions that are the same on every machine.
#pragma once

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)) && !defined(MEAP_PLAIN)
#define MEAP_HAS_AVX2_CODE 1
#include <immintrin.h>

namespace meap::detail {

inline const bool kUseAvx2 = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") != 0;
}();

}  // namespace meap::detail
#endif
