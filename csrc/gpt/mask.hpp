// [MASK] over the input tokens of one sample. The specification is MaskStage in meap_megatron/datasets/stage.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "random/choose.hpp"
#include "strategies/strategy.hpp"

namespace meap::gpt {

struct MaskRules {
    const Strategy* strategy = nullptr;  // null: nothing is masked
    double ratio = 0;                    // in (0, 1)
    std::int64_t mask_id = 0;
    std::int64_t span_length = 1;
    std::int64_t global_batch_size = 1;       // samples per optimizer step
    std::vector<std::int64_t> protected_ids;  // never masked; none with a strategy that follows the step
    Key key{};                                // mask_key(seed, dataset_key)
};

// Overwrite tokens: int64[sequence_length], of which the first num_real are data and the rest padding.
inline void mask_tokens(const MaskRules& rules, std::int64_t sample_index, std::int64_t num_real,
                        std::int64_t sequence_length, std::int64_t* tokens) {
    if (rules.strategy == nullptr || num_real < 2) return;
    // Kept between calls: allocating costs as much as choosing.
    thread_local std::vector<std::int64_t> eligible, chosen;
    const bool follows_step = rules.strategy->follows_step;
    Draw draw;
    draw.key = rules.key;
    draw.sample_index = static_cast<std::uint64_t>(sample_index);
    draw.step = draw.sample_index / static_cast<std::uint64_t>(rules.global_batch_size);
    draw.in_order = false;
    draw.num_eligible = (follows_step ? sequence_length : num_real) - 1;
    const bool has_protected = !rules.protected_ids.empty();
    if (has_protected) {
        eligible.resize(static_cast<std::size_t>(num_real));
        draw.num_eligible = 0;
        for (std::int64_t position = 0; position < num_real - 1; ++position) {
            bool is_protected = false;
            for (const std::int64_t id : rules.protected_ids) is_protected |= tokens[position] == id;
            eligible[static_cast<std::size_t>(draw.num_eligible)] = position;
            draw.num_eligible += is_protected ? 0 : 1;
        }
    }
    draw.count = std::min(num_masked(draw.num_eligible + 1, rules.ratio), draw.num_eligible);
    if (draw.count == 0) return;
    draw.span_length = std::min(rules.span_length, draw.num_eligible);
    chosen.resize(static_cast<std::size_t>(draw.count));
    rules.strategy->choose(draw, chosen.data());
    for (const std::int64_t integer : chosen) {
        const std::int64_t position = has_protected ? eligible[static_cast<std::size_t>(integer)] : integer;
        if (position < num_real - 1) tokens[position] = rules.mask_id;
    }
}

}  // namespace meap::gpt
