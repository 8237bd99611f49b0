// What a masking strategy is: a name and one function. A new one is a header like random.hpp and a line in
// registry.hpp, beside its specification in meap_megatron/masking/strategies/.
#pragma once

#include <cstdint>

#include "random/philox.hpp"

namespace meap {

// One sample's choice: `count` of the integers 0..num_eligible-1, 1 <= count <= num_eligible.
struct Draw {
    Key key{};  // mask_key(seed, dataset_key)
    std::uint64_t sample_index = 0;
    std::int64_t num_eligible = 0;
    std::int64_t count = 0;
    std::int64_t span_length = 1;  // at most num_eligible
    std::uint64_t step = 0;        // optimizer step
    bool in_order = true;          // false: any order will do
};

struct Strategy {
    const char* name;
    bool follows_step;  // the set depends on the step alone, is that of the whole length, and protects no token
    void (*choose)(const Draw& draw, std::int64_t* chosen);
};

}  // namespace meap
