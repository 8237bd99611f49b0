// Conversations in memory maps: token ids and, byte for token, roles.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "sft/roles.hpp"

namespace meap::sft {

// An item is 4 * conversation + kind.
enum Kind : std::uint32_t { kOriginal = 0, kCopy = 1, kJoined = 2 };

// Not owned: who makes a Source keeps the arrays alive.
struct Source {
    const void* ids = nullptr;  // uint16 or int32
    std::int64_t id_bytes = 0;  // 2 or 4
    std::int64_t num_ids = 0;
    const void* id_pointers = nullptr;  // int64[num_conversations], bytes into ids
    const std::uint8_t* roles = nullptr;
    std::int64_t num_roles = 0;
    const void* role_pointers = nullptr;  // int64[num_conversations], bytes into roles
    const void* lengths = nullptr;        // int32[num_conversations], tokens
    std::int64_t num_conversations = 0;
};

struct Conversation {
    const void* ids;
    const std::uint8_t* roles;
    std::int64_t length;
};

// One conversation; throws if the index sends the reader outside the maps.
inline Conversation read_conversation(const Source& source, std::int64_t number) {
    if (number < 0 || number >= source.num_conversations) {
        throw std::out_of_range("conversation " + std::to_string(number) + " of " +
                                std::to_string(source.num_conversations));
    }
    const std::int64_t length = load<std::int32_t>(source.lengths, number);
    const std::int64_t id_pointer = load<std::int64_t>(source.id_pointers, number);
    const std::int64_t role_pointer = load<std::int64_t>(source.role_pointers, number);
    if (length < 0 || id_pointer < 0 || id_pointer % source.id_bytes != 0 ||
        id_pointer / source.id_bytes > source.num_ids - length || role_pointer < 0 ||
        role_pointer > source.num_roles - length) {
        throw std::out_of_range("the index of conversation " + std::to_string(number) + " points outside the data");
    }
    return {static_cast<const char*>(source.ids) + id_pointer, source.roles + role_pointer, length};
}

}  // namespace meap::sft
