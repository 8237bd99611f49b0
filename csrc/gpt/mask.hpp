// Corrupts the input tokens of one sample. The specification is MaskStage in meap_megatron/datasets/stage.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "corruption/ratio.hpp"
#include "corruption/replace.hpp"
#include "random/choose.hpp"
#include "strategies/strategy.hpp"

namespace meap::gpt {

struct MaskRules {
    const Strategy* strategy = nullptr;  // null: nothing is masked
    RatioRules ratio;
    Replacement replacement;
    std::int64_t span_length = 1;
    std::int64_t global_batch_size = 1;       // samples per optimizer step
    std::int64_t skip_first = 0;              // positions at the start that are never chosen
    std::int64_t min_document_tokens = 0;     // documents with fewer tokens are left alone
    std::vector<std::int64_t> protected_ids;  // never chosen; none with a strategy that follows the step
    Key key{};                                // mask_key(seed, dataset_key)
};

// What a changed input adds to loss_mask at its own position, and at the position that predicts it.
constexpr float kChangedInput = 2.0f, kChangedTarget = 4.0f;

using Ranges = std::vector<std::pair<std::int64_t, std::int64_t>>;  // positions [first, second)

namespace detail {

// The positions that may be chosen, ascending, where they are not all from skip_first on.
inline void find_eligible(const MaskRules& rules, std::int64_t num_real, const Ranges& barred,
                          const std::int64_t* tokens, std::vector<std::int64_t>& eligible) {
    eligible.resize(static_cast<std::size_t>(num_real));
    std::int64_t count = 0;
    std::size_t range = 0;
    for (std::int64_t position = rules.skip_first; position < num_real - 1; ++position) {
        while (range < barred.size() && barred[range].second <= position) ++range;
        bool is_barred = range < barred.size() && barred[range].first <= position;
        for (const std::int64_t id : rules.protected_ids) is_barred |= tokens[position] == id;
        eligible[static_cast<std::size_t>(count)] = position;
        count += is_barred ? 0 : 1;
    }
    eligible.resize(static_cast<std::size_t>(count));
}

}  // namespace detail

// Overwrite tokens: int64[sequence_length], of which the first num_real are data and the rest padding. Changes are
// added to loss_mask: float[sequence_length] unless it is null. `barred`: ascending ranges of short documents.
inline void corrupt(const MaskRules& rules, std::int64_t sample_index, std::int64_t num_real,
                    std::int64_t sequence_length, const Ranges& barred, std::int64_t* tokens, float* loss_mask) {
    if (rules.strategy == nullptr || num_real < 2) return;
    // Kept between calls: allocating costs as much as choosing.
    thread_local std::vector<std::int64_t> eligible, chosen;
    Draw draw;
    draw.key = rules.key;
    draw.sample_index = static_cast<std::uint64_t>(sample_index);
    draw.step = draw.sample_index / static_cast<std::uint64_t>(rules.global_batch_size);
    draw.in_order = !rules.replacement.is_mask();
    const double ratio = rules.ratio.of(rules.key, draw.sample_index);
    if (ratio == 0) return;
    const bool is_listed = !rules.protected_ids.empty() || rules.min_document_tokens > 0;
    std::int64_t first = rules.skip_first;
    if (is_listed) {
        detail::find_eligible(rules, num_real, barred, tokens, eligible);
        draw.num_eligible = static_cast<std::int64_t>(eligible.size());
        first = 0;
    } else {
        draw.num_eligible =
            std::max<std::int64_t>(0, (rules.strategy->follows_step ? sequence_length : num_real) - 1 - first);
    }
    draw.count = std::min(num_masked(draw.num_eligible + 1, ratio), draw.num_eligible);
    if (draw.count == 0) return;
    draw.span_length = std::min(rules.span_length, draw.num_eligible);
    chosen.resize(static_cast<std::size_t>(draw.count));
    rules.strategy->choose(draw, chosen.data());
    Replacer replacer(rules.replacement, rules.key, draw.sample_index);
    const bool is_mask = rules.replacement.is_mask();
    for (const std::int64_t integer : chosen) {
        const std::int64_t position = is_listed ? eligible[static_cast<std::size_t>(integer)] : first + integer;
        if (position >= num_real - 1) continue;
        if (is_mask) {
            tokens[position] = rules.replacement.mask_id;
        } else if (!replacer.replace(tokens + position)) {
            continue;
        }
        if (loss_mask == nullptr) continue;
        loss_mask[position] += kChangedInput;
        if (position > 0) loss_mask[position - 1] += kChangedTarget;
    }
}

}  // namespace meap::gpt
