// Corrupts the input tokens of one sample. The specification is MaskStage in meap_megatron/datasets/mask_stage.py.
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

// Write the positions that may be chosen, ascending, and return how many there are.
inline std::int64_t find_eligible(const MaskRules& rules, std::int64_t num_real, const Ranges& barred,
                                  const std::int64_t* tokens, std::vector<std::int64_t>& eligible) {
    if (static_cast<std::int64_t>(eligible.size()) < num_real) eligible.resize(static_cast<std::size_t>(num_real));
    std::int64_t count = 0;
    const auto take = [&](std::int64_t start, std::int64_t stop) {
        if (rules.protected_ids.empty()) {
            for (std::int64_t position = start; position < stop; ++position) {
                eligible[static_cast<std::size_t>(count + position - start)] = position;
            }
            count += std::max<std::int64_t>(0, stop - start);
            return;
        }
        for (std::int64_t position = start; position < stop; ++position) {
            bool is_protected = false;
            for (const std::int64_t id : rules.protected_ids) is_protected |= tokens[position] == id;
            eligible[static_cast<std::size_t>(count)] = position;
            count += is_protected ? 0 : 1;
        }
    };
    std::int64_t start = rules.skip_first;
    for (const auto& [first, second] : barred) {
        take(start, std::min(first, num_real - 1));
        start = std::max(start, second);
    }
    take(start, num_real - 1);
    return count;
}

}  // namespace detail

// Overwrite tokens: int64[sequence_length], of which the first num_real are data and the rest padding. Changes are
// added to loss_mask: float[sequence_length] unless it is null. `barred`: ascending ranges of short documents.
inline void corrupt(const MaskRules& rules, std::int64_t sample_index, std::int64_t num_real,
                    std::int64_t sequence_length, const Ranges& barred, std::int64_t* tokens, float* loss_mask) {
    if (rules.strategy == nullptr || num_real < 2) return;
    // Kept between calls: allocating costs as much as choosing.
    thread_local std::vector<std::int64_t> eligible, chosen;
    thread_local std::vector<std::int32_t> ids;
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
        draw.num_eligible = detail::find_eligible(rules, num_real, barred, tokens, eligible);
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
    // From numbers to positions.
    if (is_listed) {
        for (std::int64_t& number : chosen) number = eligible[static_cast<std::size_t>(number)];
    } else if (first > 0) {
        for (std::int64_t& number : chosen) number += first;
    }
    if (rules.strategy->follows_step) {  // ascending, and of the whole length
        chosen.erase(std::lower_bound(chosen.begin(), chosen.end(), num_real - 1), chosen.end());
    }
    if (rules.replacement.is_mask()) {
        for (const std::int64_t position : chosen) tokens[position] = rules.replacement.mask_id;
    } else {
        ids.resize(chosen.size());
        replacements(rules.replacement, rules.key, draw.sample_index, ids.size(), ids.data());
        if (rules.replacement.random_below != Replacement::kAll) {  // some keep their token
            std::size_t num_changed = 0;
            for (std::size_t i = 0; i < ids.size(); ++i) {
                chosen[num_changed] = chosen[i];
                ids[num_changed] = ids[i];
                num_changed += ids[i] != kKept ? 1 : 0;
            }
            chosen.resize(num_changed);
        }
        for (std::size_t i = 0; i < chosen.size(); ++i) tokens[chosen[i]] = ids[i];
    }
    if (loss_mask == nullptr) return;
    for (const std::int64_t position : chosen) {
        loss_mask[position] += kChangedInput;
        if (position > 0) loss_mask[position - 1] += kChangedTarget;
    }
}

}  // namespace meap::gpt
