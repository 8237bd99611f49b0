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
        if (number >= offsets.back()) return number + static_cast<std::int64_t>(offsets.size());
        return number + (std::upper_bound(offsets.begin(), offsets.end(), number) - offsets.begin());
    }
};

constexpr std::int64_t kKept = -1;

// Write ids: int64[count], what takes the place of each chosen position in ascending order, or kKept. Words of the
// shares come first, one for each position, then the random tokens.
inline void replacements(const Replacement& rules, Key key, std::uint64_t sample_index, std::size_t count,
                         std::int64_t* ids) {
    if (rules.is_mask()) {
        std::fill_n(ids, count, rules.mask_id);
        return;
    }
    thread_local std::vector<std::uint32_t> kept;  // between calls: allocating costs as much
    kept.resize(3 * count + 1);
    std::uint32_t* const drawn = kept.data();
    WordStream words(key, kReplaceStream, sample_index);
    if (!rules.is_mixed()) {
        words.below_many(rules.num_ordinary, count, drawn);
        for (std::size_t i = 0; i < count; ++i) ids[i] = rules.nth_ordinary(drawn[i]);
        return;
    }
    std::uint32_t *const shares = drawn + count, *const places = shares + count;  // places of the random tokens
    words.next_many(count, shares);
    // Copies: ids might be anywhere, so the rules would be read again after every write. No branches: which share a
    // word falls into cannot be foreseen.
    const std::uint64_t mask_below = rules.mask_below, random_share = rules.random_below - mask_below;
    const std::int64_t mask_id = rules.mask_id;
    std::size_t num_drawn = 0;
    for (std::size_t i = 0; i < count; ++i) {
        ids[i] = shares[i] < mask_below ? mask_id : kKept;
        places[num_drawn] = static_cast<std::uint32_t>(i);
        num_drawn += static_cast<std::size_t>(shares[i] - mask_below < random_share);
    }
    if (num_drawn == 0) return;
    words.below_many(rules.num_ordinary, num_drawn, drawn);
    for (std::size_t i = 0; i < num_drawn; ++i) ids[places[i]] = rules.nth_ordinary(drawn[i]);
}

}  // namespace meap
