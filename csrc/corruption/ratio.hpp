// How much of a sample is masked. The specification is meap_megatron/masking/ratio.py; both compute the same doubles,
// for which the module is built with -ffp-contract=off.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "random/word_stream.hpp"

namespace meap {

struct RatioPoint {
    double progress = 0, low = 0, high = 0;
};

// Points of ascending progress, linear between them; of two points at one progress the later holds from there on.
inline double ratio_at(const std::vector<RatioPoint>& points, double progress, double uniform) {
    std::size_t after = 0;
    while (after < points.size() && points[after].progress <= progress) ++after;
    double low, high;
    if (after == 0 || after == points.size()) {
        const RatioPoint& point = points[after == 0 ? 0 : after - 1];
        low = point.low;
        high = point.high;
    } else {
        const RatioPoint &one = points[after - 1], &two = points[after];
        const double share = (progress - one.progress) / (two.progress - one.progress);
        low = one.low + (two.low - one.low) * share;
        high = one.high + (two.high - one.high) * share;
    }
    return low + (high - low) * uniform;
}

struct RatioRules {
    std::vector<RatioPoint> points;
    double clean_fraction = 0;     // share of the samples that stay unmasked, in [0, 1)
    std::int64_t num_samples = 1;  // samples at which progress is 1
    bool is_drawn = false;         // whether a sample's uniform numbers are needed

    // The ratio of a sample, 0 if it stays clean.
    double of(Key key, std::uint64_t sample_index) const {
        double clean = 1, within = 0;
        if (is_drawn) {
            WordStream words(key, kSampleStream, sample_index);
            clean = words.next() / 4294967296.0;
            within = words.next() / 4294967296.0;
        }
        if (clean < clean_fraction) return 0;
        if (points.size() == 1) return ratio_at(points, 0, within);
        return ratio_at(points, std::min(1.0, static_cast<double>(sample_index) / static_cast<double>(num_samples)),
                        within);
    }
};

}  // namespace meap
