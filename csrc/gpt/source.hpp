// One split of an indexed dataset as Megatron's three index arrays cut it: from a sample's index to its documents'
// parts.
//
// Given documents of 3, 4 and 9 tokens, document_index [2, 0, 1] and sample_index [[0, 0], [0, 7], [1, 2]] of a
// sequence length of 7 with one extra token, then the parts of place 0 are tokens 0..7 of document 2, and those of
// place 1 are tokens 7..8 of document 2, tokens 0..2 of document 0 ... until all S + 1 tokens are there.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

namespace meap::gpt {

// Every number that comes from a file is checked before it is used as an address, so that a damaged index ends with
// this exception and never with a read outside the maps.
class DamagedIndex : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Not owned: who makes a Source keeps the arrays alive.
struct Source {
    const void* ids = nullptr;  // uint16 or int32
    std::int64_t id_bytes = 0;  // 2 or 4
    std::int64_t num_ids = 0;
    const void* pointers = nullptr;  // int64[num_documents], bytes into ids
    const void* lengths = nullptr;   // int32[num_documents], tokens
    std::int64_t num_documents = 0;
    const void* document_index = nullptr;  // int32[num_entries]
    std::int64_t num_entries = 0;
    const void* sample_index = nullptr;  // int32 or int64 [num_samples + 1, 2]: an entry, and tokens into its document
    bool has_wide_sample_index = false;
    const void* shuffle_index = nullptr;  // uint32 or int64 [num_samples]
    bool has_wide_shuffle_index = false;
    std::int64_t num_samples = 0;
};

namespace detail {

// The arrays behind an index file start at odd offsets, so its numbers may not be aligned.
template <typename T>
inline std::int64_t load(const void* base, std::int64_t index) {
    T value;
    std::memcpy(&value, static_cast<const char*>(base) + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
    return value;
}

inline std::int64_t sample_index_number(const Source& source, std::int64_t number) {
    return source.has_wide_sample_index ? load<std::int64_t>(source.sample_index, number)
                                        : load<std::int32_t>(source.sample_index, number);
}

[[noreturn, gnu::cold, gnu::noinline]] inline void damaged(std::int64_t place, const std::string& what) {
    throw DamagedIndex("row " + std::to_string(place) + " of the sample index " + what);
}

}  // namespace detail

// The place in the stream of the sample with this index, 0 <= index < num_samples.
inline std::int64_t place_of(const Source& source, std::int64_t index) {
    const std::int64_t place = source.has_wide_shuffle_index
                                   ? detail::load<std::int64_t>(source.shuffle_index, index)
                                   : detail::load<std::uint32_t>(source.shuffle_index, index);
    if (place < 0 || place >= source.num_samples) {
        throw DamagedIndex("entry " + std::to_string(index) + " of the shuffle index is " + std::to_string(place) +
                           ", but there are " + std::to_string(source.num_samples) + " samples");
    }
    return place;
}

// Call `visit(ids, count, length)` for the parts of the sample at a place, in order, with the tokens of the whole
// document; empty documents are parts of 0 tokens.
template <typename Id, typename Visit>
inline void for_each_part(const Source& source, std::int64_t place, std::int64_t num_extra, Visit visit) {
    const std::int64_t first = detail::sample_index_number(source, 2 * place);
    const std::int64_t first_offset = detail::sample_index_number(source, 2 * place + 1);
    const std::int64_t last = detail::sample_index_number(source, 2 * place + 2);
    const std::int64_t last_offset = detail::sample_index_number(source, 2 * place + 3);
    constexpr std::int64_t kMostTokens = INT32_MAX;
    if (first < 0 || last < first || last >= source.num_entries) {
        detail::damaged(place, "goes from entry " + std::to_string(first) + " to " + std::to_string(last) + " of " +
                                   std::to_string(source.num_entries));
    }
    if (first_offset < 0 || first_offset > kMostTokens || last_offset < 0 || last_offset > kMostTokens) {
        detail::damaged(place, "has the offsets " + std::to_string(first_offset) + " and " +
                                   std::to_string(last_offset) + ", outside any document");
    }
    for (std::int64_t entry = first; entry <= last; ++entry) {
        const std::int64_t document = detail::load<std::int32_t>(source.document_index, entry);
        if (document < 0 || document >= source.num_documents) {
            detail::damaged(place, "leads to document " + std::to_string(document) + " of " +
                                       std::to_string(source.num_documents));
        }
        const std::int64_t length = detail::load<std::int32_t>(source.lengths, document);
        const std::int64_t pointer = detail::load<std::int64_t>(source.pointers, document);
        const std::int64_t start = entry == first ? first_offset : 0;
        const std::int64_t stop = entry == last ? last_offset + num_extra : length;
        constexpr std::int64_t kIdBytes = sizeof(Id);
        if (start > stop || stop > length || pointer < 0 || pointer % kIdBytes != 0 ||
            pointer / kIdBytes > source.num_ids - length) {
            detail::damaged(place, "asks for tokens " + std::to_string(start) + " to " + std::to_string(stop) +
                                       " of document " + std::to_string(document) + ", which has " +
                                       std::to_string(length) + " at byte " + std::to_string(pointer) + " of " +
                                       std::to_string(source.num_ids * kIdBytes));
        }
        visit(static_cast<const Id*>(source.ids) + pointer / kIdBytes + start, stop - start, length);
    }
}

}  // namespace meap::gpt
