// The strategies by name; meap_megatron/masking/strategies/__init__.py lists the same ones.
#pragma once

#include <stdexcept>
#include <string>

#include "strategies/official51.hpp"
#include "strategies/random.hpp"
#include "strategies/span.hpp"

namespace meap {

inline constexpr const Strategy* kStrategies[] = {&kRandom, &kSpan, &kOfficial51};

inline const Strategy& strategy_named(const std::string& name) {
    for (const Strategy* strategy : kStrategies) {
        if (name == strategy->name) return *strategy;
    }
    throw std::invalid_argument("unknown strategy '" + name + "'");
}

}  // namespace meap
