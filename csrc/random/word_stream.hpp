// The random words of one sample, and bounded integers made of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "random/philox.hpp"
#include "random/philox_simd.hpp"

namespace meap {

// Second word of the counter: no two uses of one key share words. Each answer of a conversation has a stream of its
// own, from kAnswerStream on; other uses have those from the top down.
enum Stream : std::uint32_t {
    kRandomStream = 0,
    kSpanStream = 1,
    kAnswerStream = 2,
    kReplaceStream = 0xFFFFFFFE,
    kSampleStream = 0xFFFFFFFF,
};

// The words of one sample, in order: blocks (0, stream, sample), (1, stream, sample), ...
class WordStream {
  public:
    WordStream(Key key, std::uint32_t stream, std::uint64_t sample_index)
        : key_(key), stream_(stream), sample_index_(sample_index) {}

    std::uint32_t next() {
        if (used_ == kWords) refill();
        return words_[used_++];
    }

    // A uniform integer in 0..range-1, range >= 1: Lemire's multiply-shift, unbiased by rejection.
    std::uint32_t below(std::uint32_t range) {
        std::uint64_t product = std::uint64_t{next()} * range;
        if (detail::low_word(product) < range) {  // rare: range / 2^32
            const std::uint32_t threshold = (0u - range) % range;
            while (detail::low_word(product) < threshold) product = std::uint64_t{next()} * range;
        }
        return detail::high_word(product);
    }

    void next_many(std::size_t count, std::uint32_t* out) {
        while (count > 0) {
            if (used_ == kWords) refill();
            const std::size_t piece = std::min(count, kWords - used_);
            std::copy_n(words_ + used_, piece, out);
            used_ += piece;
            out += piece;
            count -= piece;
        }
    }

    // out[i] = below(range) for i in 0..count-1.
    void below_many(std::uint32_t range, std::size_t count, std::uint32_t* out) { fill_below<0>(range, count, out); }

    // out[i] = below(first_range + i) for i in 0..count-1.
    void below_ascending(std::uint32_t first_range, std::size_t count, std::uint32_t* out) {
        fill_below<1>(first_range, count, out);
    }

  private:
    // out[i] = below(first_range + kStep * i). The loop has no branch: a piece in which a word may have to be rejected
    // (one in some thousands) is drawn again from its first word, one by one.
    template <std::uint32_t kStep>
    void fill_below(std::uint32_t first_range, std::size_t count, std::uint32_t* out) {
        while (count > 0) {
            if (used_ == kWords) refill();
            const std::size_t piece = std::min(count, kWords - used_);
            const std::uint32_t* const words = words_ + used_;
            std::uint32_t smallest = 0xFFFFFFFFu;
            for (std::size_t i = 0; i < piece; ++i) {
                const std::uint32_t range = first_range + kStep * static_cast<std::uint32_t>(i);
                const std::uint64_t product = std::uint64_t{words[i]} * range;
                out[i] = detail::high_word(product);
                smallest = std::min(smallest, detail::low_word(product));
            }
            const auto last_range = first_range + kStep * static_cast<std::uint32_t>(piece);
            if (smallest < last_range) {
                for (std::size_t i = 0; i < piece; ++i) {
                    out[i] = below(first_range + kStep * static_cast<std::uint32_t>(i));
                }
            } else {
                used_ += piece;
            }
            first_range += kStep * static_cast<std::uint32_t>(piece);
            out += piece;
            count -= piece;
        }
    }

    static constexpr std::uint32_t kBlocks = 16;  // made at once
    static constexpr std::size_t kWords = std::size_t{4} * kBlocks;

    void refill() {
        philox_words(key_, block_, stream_, sample_index_, kBlocks, words_);
        block_ += kBlocks;
        used_ = 0;
    }

    Key key_;
    std::uint32_t stream_;
    std::uint64_t sample_index_;
    std::uint32_t block_ = 0;
    std::size_t used_ = kWords;
    std::uint32_t words_[kWords];
};

}  // namespace meap
