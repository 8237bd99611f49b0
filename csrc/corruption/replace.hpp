// What takes the place of a chosen token. The specification is meap_megatron/masking/corruption.py; both give the same
// ids bit for bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "random/word_stream.hpp"

namespace meap {

struct Replacement {
    std::int64_t mask_id = 0;
    std::uint64_t mask_below = kAll;    // words below it give [MASK]
    std::uint64_t random_below = kAll;  // words from there to below it give a random token, others keep theirs
    std::uint32_t num_ordinary = 0;     // ids of which random tokens are drawn
    std::vector<std::int64_t> offsets;  // excluded[i] - i of the excluded ids, ascending

    static constexpr std::uint64_t kAll = std::uint64_t{1} << 32;

    bool is_mask() const { return mask_below == kAll; }
    bool is_mixed() const { return (mask_below != 0 && mask_below != kAll) || random_below != kAll; }

    std::int64_t nth_ordinary(std::int64_t number) const {
        if (offsets.empty() || number < offsets.front()) return number;
        return number + (std::upper_bound(offsets.begin(), offsets.end(), number) - offsets.begin());
    }
};

// The ids for chosen positions, to be asked for in ascending order of the positions.
class Replacer {
  public:
    Replacer(const Replacement& rules, Key key, std::uint64_t sample_index)
        : rules_(rules), words_(key, kReplaceStream, sample_index), is_mixed_(rules.is_mixed()) {}

    // Overwrite a token; false: it is kept.
    bool replace(std::int64_t* token) {
        const std::uint64_t word = is_mixed_ ? words_.next() : 0;
        if (word < rules_.mask_below) {
            *token = rules_.mask_id;
        } else if (word < rules_.random_below) {
            *token = rules_.nth_ordinary(words_.below(rules_.num_ordinary));
        } else {
            return false;
        }
        return true;
    }

  private:
    const Replacement& rules_;
    WordStream words_;
    bool is_mixed_;
};

}  // namespace meap
