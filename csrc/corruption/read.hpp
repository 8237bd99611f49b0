// Rules of the masked inputs from their Python settings, attribute by attribute.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "corruption/ratio.hpp"
#include "corruption/replace.hpp"

namespace meap {

template <typename T>
T read(const pybind11::object& settings, const char* name) {
    return settings.attr(name).cast<T>();
}

// From a MaskStage, which adds the number of samples to its MaskConfig.
inline RatioRules read_ratio(const pybind11::object& stage) {
    const pybind11::object settings = stage.attr("mask");
    RatioRules rules;
    for (const pybind11::handle& point : settings.attr("schedule").attr("points")) {
        const auto found = pybind11::reinterpret_borrow<pybind11::object>(point);
        rules.points.push_back(
            {read<double>(found, "progress"), read<double>(found, "low"), read<double>(found, "high")});
        if (!(rules.points.back().low >= 0 && rules.points.back().high < 1)) {
            throw std::invalid_argument("ratio must be in [0, 1)");
        }
        rules.is_drawn |= rules.points.back().low != rules.points.back().high;
    }
    if (rules.points.empty()) throw std::invalid_argument("ratio has no point");
    rules.clean_fraction = read<double>(settings, "clean_fraction");
    rules.is_drawn |= rules.clean_fraction > 0;
    rules.num_samples = read<std::int64_t>(stage, "num_samples");
    if (rules.num_samples < 1) throw std::invalid_argument("num_samples must be at least 1");
    return rules;
}

// From a MaskConfig or an SFTConfig.
inline Replacement read_replacement(const pybind11::object& settings) {
    Replacement rules;
    rules.mask_id = read<std::int64_t>(settings, "mask_id");
    const pybind11::object shares = settings.attr("shares");
    rules.mask_below = read<std::uint64_t>(shares, "mask_below");
    rules.random_below = read<std::uint64_t>(shares, "random_below");
    const pybind11::object ordinary = settings.attr("ordinary");
    if (ordinary.is_none()) {
        if (rules.mask_below != rules.random_below) throw std::invalid_argument("random tokens need ordinary ids");
        return rules;
    }
    rules.num_ordinary = read<std::uint32_t>(ordinary, "count");
    if (rules.num_ordinary < 1) throw std::invalid_argument("there is no ordinary id");
    const auto offsets = read<std::vector<std::uint32_t>>(ordinary, "offsets");
    for (std::size_t i = 0; i < offsets.size() && offsets[i] < rules.num_ordinary; ++i) {
        if (i == 0 || offsets[i] != offsets[i - 1]) {
            rules.excluded.emplace_back(offsets[i] + static_cast<std::uint32_t>(i), 0);
        }
        ++rules.excluded.back().second;
    }
    return rules;
}

}  // namespace meap
