// Strategy `span`: ceil(count / span_length) runs, one of them short when the division leaves a rest. Known answer
// (seed 1234, dataset key 0x0123456789abcdef, sample 7): runs of 3, 15 eligible, 7 chosen -> 4 5 6 8 9 10 13.
#pragma once

#include <vector>

#include "random/choose.hpp"
#include "strategies/strategy.hpp"

namespace meap {

// Runs never overlap, may touch, and every placement is equally likely: with each run shrunk to one slot, a placement
// is a choice of slots (stars and bars), and then of the short run.
inline void span_positions(const Draw& draw, std::int64_t* chosen) {
    WordStream words(draw.key, kSpanStream, draw.sample_index);
    const std::int64_t num_spans = (draw.count + draw.span_length - 1) / draw.span_length;
    thread_local std::vector<std::int64_t> slots;
    slots.resize(static_cast<std::size_t>(num_spans));
    choose_sorted(words, draw.num_eligible - draw.count + num_spans, num_spans, slots.data());
    const std::int64_t rest = draw.count % draw.span_length;
    const std::int64_t short_span = rest == 0 ? -1 : words.below(static_cast<std::uint32_t>(num_spans));
    std::int64_t written = 0;
    for (std::int64_t span = 0; span < num_spans; ++span) {
        const std::int64_t start = slots[static_cast<std::size_t>(span)] - span + written;
        const std::int64_t length = span == short_span ? rest : draw.span_length;
        for (std::int64_t offset = 0; offset < length; ++offset) chosen[written++] = start + offset;
    }
}

inline constexpr Strategy kSpan{"span", false, span_positions};

}  // namespace meap
