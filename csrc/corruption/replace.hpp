// What takes the place of a chosen token. The specification is meap_megatron/masking/corruption.py; both give the same
// ids bit for bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "random/word_stream.hpp"

namespace meap {

struct Replacement {
    static constexpr std::uint64_t kAll = std::uint64_t{1} << 32;

    std::int64_t mask_id = 0;
    std::uint64_t mask_below = kAll;    // words below it give [MASK]
    std::uint64_t random_below = kAll;  // words from there to below it give a random token, others keep theirs
    std::uint32_t num_ordinary = 0;     // ids of which random tokens are drawn
    std::vector<std::pair<std::uint32_t, std::uint32_t>> excluded;  // runs of other ids between them: (first, size)

    bool is_mask() const { return mask_below == kAll; }
    bool is_mixed() const { return (mask_below != 0 && mask_below != kAll) || random_below != kAll; }
};

constexpr std::int32_t kKept = -1;

namespace detail {

// Write `count` uniformly drawn ordinary ids. One pass for every run, of which vocabularies have few: the compiler
// makes SIMD of it, whereas a search for each id would branch on what cannot be foreseen.
inline void draw_ordinary(const Replacement& rules, WordStream& words, std::size_t count, std::uint32_t* ids) {
    words.below_many(rules.num_ordinary, count, ids);
    for (const auto& run : rules.excluded) {
        const std::uint32_t first = run.first, size = run.second;
        for (std::size_t i = 0; i < count; ++i) ids[i] += ids[i] >= first ? size : 0;
    }
}

}  // namespace detail

// Write ids: int32[count], what takes the place of each chosen position in ascending order, or kKept. Words of the
// shares come first, one for each position, then the random tokens.
inline void replacements(const Replacement& rules, Key key, std::uint64_t sample_index, std::size_t count,
                         std::int32_t* ids) {
    if (rules.is_mask()) {
        std::fill_n(ids, count, static_cast<std::int32_t>(rules.mask_id));
        return;
    }
    WordStream words(key, kReplaceStream, sample_index);
    if (!rules.is_mixed()) {
        detail::draw_ordinary(rules, words, count, reinterpret_cast<std::uint32_t*>(ids));
        return;
    }
    thread_local std::vector<std::uint32_t> kept;  // between calls: allocating costs as much
    kept.resize(3 * count + 1);
    std::uint32_t *const shares = kept.data(), *const drawn = shares + count, *const places = drawn + count;
    words.next_many(count, shares);
    const auto mask_below = static_cast<std::uint32_t>(rules.mask_below);
    const auto random_share = static_cast<std::uint32_t>(rules.random_below - rules.mask_below);
    const auto mask_id = static_cast<std::int32_t>(rules.mask_id);
    for (std::size_t i = 0; i < count; ++i) ids[i] = shares[i] < mask_below ? mask_id : kKept;
    std::size_t num_drawn = 0;
    for (std::size_t i = 0; i < count; ++i) {  // no branch: which share a word falls into cannot be foreseen
        places[num_drawn] = static_cast<std::uint32_t>(i);
        num_drawn += shares[i] - mask_below < random_share ? 1 : 0;
    }
    if (num_drawn == 0) return;
    detail::draw_ordinary(rules, words, num_drawn, drawn);
    for (std::size_t i = 0; i < num_drawn; ++i) ids[places[i]] = static_cast<std::int32_t>(drawn[i]);
}

}  // namespace meap
