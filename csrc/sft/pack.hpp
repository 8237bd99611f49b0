// Segments into rows: best fit, longest first, over windows. Specification: datasets/sft/reference.py, `pack`.
//
// Time: a few operations per segment, whatever the window. Memory: the result and O(window + capacity).
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace meap::sft {

// A set of the integers 0..size-1 that finds its least member not below x, in two levels of 64-bit words.
class SpaceSet {
  public:
    explicit SpaceSet(std::int64_t size) : words_(chunks(size), 0), filled_(chunks(chunks(size)), 0) {}

    void insert(std::int64_t x) {
        words_[word(x)] |= bit(x);
        filled_[word(x / 64)] |= bit(x / 64);
    }

    void erase(std::int64_t x) {
        words_[word(x)] &= ~bit(x);
        if (words_[word(x)] == 0) filled_[word(x / 64)] &= ~bit(x / 64);
    }

    // -1 if there is none.
    std::int64_t at_least(std::int64_t x) const {
        const std::uint64_t here = words_[word(x)] >> (x % 64);
        if (here != 0) return x + __builtin_ctzll(here);
        const std::int64_t next = x / 64 + 1;  // first word that may hold the answer
        std::size_t group = word(next);
        if (group >= filled_.size()) return -1;
        std::uint64_t groups = filled_[group] >> (next % 64) << (next % 64);
        while (groups == 0) {
            if (++group == filled_.size()) return -1;
            groups = filled_[group];
        }
        const std::int64_t found = static_cast<std::int64_t>(64 * group) + __builtin_ctzll(groups);
        return 64 * found + __builtin_ctzll(words_[static_cast<std::size_t>(found)]);
    }

  private:
    static std::size_t word(std::int64_t x) { return static_cast<std::size_t>(x / 64); }
    static std::uint64_t bit(std::int64_t x) { return std::uint64_t{1} << (x % 64); }
    static std::size_t chunks(std::size_t size) { return (size + 63) / 64; }
    static std::size_t chunks(std::int64_t size) { return chunks(static_cast<std::size_t>(size)); }

    std::vector<std::uint64_t> words_;
    std::vector<std::uint64_t> filled_;
};

// lengths: int32[n], each in 1..capacity. Writes members: uint32[n] and returns offsets: int64[num_rows + 1].
inline std::vector<std::int64_t> pack(const std::int32_t* lengths, std::int64_t n, std::int64_t capacity,
                                      std::int64_t window, std::uint32_t* members) {
    constexpr std::int32_t kNone = -1;
    SpaceSet spaces(capacity + 1);
    std::vector<std::int32_t> last_row(static_cast<std::size_t>(capacity) + 1, kNone);  // by space, a stack
    std::vector<std::int32_t> row_below, row_space, row_count, row_of, sorted;
    std::vector<std::int64_t> starts(static_cast<std::size_t>(capacity) + 2);
    std::vector<std::int64_t> offsets{0};
    for (std::int64_t begin = 0; begin < n; begin += window) {
        const std::int32_t* const piece = lengths + begin;
        const std::int64_t size = std::min(window, n - begin);
        // By descending length, equal ones in their order: a counting sort.
        std::fill(starts.begin(), starts.end(), 0);
        for (std::int64_t i = 0; i < size; ++i) {
            if (piece[i] < 1 || piece[i] > capacity) throw std::invalid_argument("a length is not in 1..capacity");
            ++starts[static_cast<std::size_t>(capacity - piece[i] + 1)];
        }
        for (std::size_t i = 1; i < starts.size(); ++i) starts[i] += starts[i - 1];
        sorted.resize(static_cast<std::size_t>(size));
        for (std::int64_t i = 0; i < size; ++i) {
            sorted[static_cast<std::size_t>(starts[static_cast<std::size_t>(capacity - piece[i])]++)] =
                static_cast<std::int32_t>(i);
        }
        row_below.clear();
        row_space.clear();
        row_count.clear();
        row_of.resize(static_cast<std::size_t>(size));
        for (const std::int32_t member : sorted) {
            const std::int32_t length = piece[member];
            std::int64_t space = spaces.at_least(length);
            std::int32_t row;
            if (space < 0) {
                row = static_cast<std::int32_t>(row_below.size());
                row_below.push_back(kNone);
                row_space.push_back(0);
                row_count.push_back(0);
                space = capacity;
            } else {
                std::int32_t& top = last_row[static_cast<std::size_t>(space)];
                row = top;
                top = row_below[static_cast<std::size_t>(row)];
                if (top == kNone) spaces.erase(space);
            }
            row_of[static_cast<std::size_t>(member)] = row;
            ++row_count[static_cast<std::size_t>(row)];
            const std::int64_t left = space - length;
            row_space[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(left);
            std::int32_t& top = last_row[static_cast<std::size_t>(left)];
            if (top == kNone) spaces.insert(left);
            row_below[static_cast<std::size_t>(row)] = top;
            top = row;
        }
        // Members row by row; then forget the rows, which are all that `spaces` and `last_row` hold.
        const std::size_t first_row = offsets.size() - 1;
        for (const std::int32_t count : row_count) offsets.push_back(offsets.back() + count);
        std::vector<std::int64_t> cursor(offsets.begin() + static_cast<std::ptrdiff_t>(first_row), offsets.end() - 1);
        for (const std::int32_t member : sorted) {
            const auto row = static_cast<std::size_t>(row_of[static_cast<std::size_t>(member)]);
            members[cursor[row]++] = static_cast<std::uint32_t>(begin + member);
        }
        for (const std::int32_t space : row_space) {
            if (last_row[static_cast<std::size_t>(space)] != kNone) spaces.erase(space);
            last_row[static_cast<std::size_t>(space)] = kNone;
        }
    }
    return offsets;
}

}  // namespace meap::sft
