// [MASK] over the input tokens of one sample. The specification is MaskStage in meap_megatron/datasets/stage.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "official51.hpp"
#include "philox.hpp"
#include "sampler.hpp"
#include "word_stream.hpp"

namespace meap::gpt {

enum class Strategy { kNone, kRandom, kSpan, kOfficial51 };

struct MaskRules {
    Strategy strategy = Strategy::kNone;
    double ratio = 0;  // in (0, 1)
    std::int64_t mask_id = 0;
    std::int64_t span_length = 1;
    std::int64_t global_batch_size = 1;       // for official51
    std::vector<std::int64_t> protected_ids;  // not with official51
    Key key{};                                // mask_key(seed, dataset_key)
};

// Overwrite tokens: int64[sequence_length], of which the first num_real are data and the rest padding.
inline void mask_tokens(const MaskRules& rules, std::int64_t sample_index, std::int64_t num_real,
                        std::int64_t sequence_length, std::int64_t* tokens) {
    if (rules.strategy == Strategy::kNone || num_real < 2) return;
    const auto index = static_cast<std::uint64_t>(sample_index);
    // Kept between calls: allocating costs as much as choosing.
    thread_local std::vector<std::int64_t> eligible, positions;
    if (rules.strategy == Strategy::kOfficial51) {
        positions.resize(static_cast<std::size_t>(num_masked(sequence_length, rules.ratio)));
        official51_positions(index / static_cast<std::uint64_t>(rules.global_batch_size), sequence_length,
                             static_cast<std::int64_t>(positions.size()), positions.data());
        for (const std::int64_t position : positions) {
            if (position < num_real - 1) tokens[position] = rules.mask_id;
        }
        return;
    }
    std::int64_t num_eligible = num_real - 1;
    const bool has_protected = !rules.protected_ids.empty();
    if (has_protected) {
        eligible.resize(static_cast<std::size_t>(num_real));
        num_eligible = 0;
        for (std::int64_t position = 0; position < num_real - 1; ++position) {
            bool is_protected = false;
            for (const std::int64_t id : rules.protected_ids) is_protected |= tokens[position] == id;
            eligible[static_cast<std::size_t>(num_eligible)] = position;
            num_eligible += is_protected ? 0 : 1;
        }
    }
    const std::int64_t count = std::min(num_masked(num_eligible + 1, rules.ratio), num_eligible);
    if (count == 0) return;
    const auto mask = [&](std::int64_t chosen) {
        tokens[has_protected ? eligible[static_cast<std::size_t>(chosen)] : chosen] = rules.mask_id;
    };
    if (rules.strategy == Strategy::kSpan) {
        positions.resize(static_cast<std::size_t>(count));
        span_positions(rules.key, index, num_eligible, count, std::min(rules.span_length, num_eligible),
                       positions.data());
        for (const std::int64_t position : positions) mask(position);
    } else {
        WordStream words(rules.key, kRandomStream, index);
        choose(words, num_eligible, count, mask);
    }
}

}  // namespace meap::gpt
