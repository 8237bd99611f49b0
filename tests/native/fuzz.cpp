// A fuzzer of the native part: whole samples from good and damaged indices, and the masking strategies.
//
//   g++ -std=c++17 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover -Icsrc tests/native/fuzz.cpp -o fuzz
//   ./fuzz 1000000 1                                    a million inputs from seed 1
//   clang++ -DLIBFUZZER -fsanitize=fuzzer,address,undefined ...   the same target under libFuzzer
//
// An input is a string of bytes from which documents, index arrays and options are made; some bytes say what is
// damaged afterwards. A finding is a report of a sanitizer, or an abort because a sample breaks a rule.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <vector>

#include "gpt/sample.hpp"
#include "strategies/registry.hpp"

namespace {

using namespace meap;

class Bytes {
  public:
    Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

    // A number in 0..most; 0 when the bytes are used up.
    std::uint64_t number(std::uint64_t most) {
        std::uint64_t value = 0;
        for (std::uint64_t rest = most; rest != 0; rest >>= 8)
            value = value << 8 | (used_ < size_ ? data_[used_++] : 0);
        return most == UINT64_MAX ? value : value % (most + 1);
    }
    bool flag() { return number(1) != 0; }

  private:
    const std::uint8_t* data_;
    std::size_t size_;
    std::size_t used_ = 0;
};

void require(bool is_true, const char* rule) {
    if (is_true) return;
    std::fprintf(stderr, "broken rule: %s\n", rule);
    std::abort();
}

// Numbers that addresses are made of, when they come from a damaged file.
std::int64_t wild(Bytes& bytes) {
    switch (bytes.number(5)) {
        case 0:
            return -1;
        case 1:
            return static_cast<std::int64_t>(bytes.number(40));
        case 2:
            return static_cast<std::int64_t>(bytes.number(UINT64_MAX));
        case 3:
            return INT32_MAX;
        case 4:
            return INT64_MIN + static_cast<std::int64_t>(bytes.number(3));
        default:
            return INT64_MAX - static_cast<std::int64_t>(bytes.number(3));
    }
}

template <typename T>
void damage(Bytes& bytes, std::vector<T>& array) {
    if (!array.empty()) array[bytes.number(array.size() - 1)] = static_cast<T>(wild(bytes));
}

// The arrays of one split. Vectors of the exact size, so that the sanitizer sees one entry too far.
struct Split {
    std::vector<std::uint16_t> narrow;
    std::vector<std::int32_t> wide, lengths, document_index;
    std::vector<std::int64_t> pointers, sample_index, shuffle_index;
};

// Megatron's way to cut the stream: build_sample_idx of its helpers, the last sample short if it is not dropped.
void cut(Split& split, std::int64_t length, std::int64_t num_extra, bool drop_last, std::int64_t num_tokens) {
    std::int64_t entry = 0, offset = 0;
    split.sample_index = {0, 0};
    for (std::int64_t left = num_tokens - num_extra; left > 0; left -= length) {
        if (left < length && drop_last) break;
        std::int64_t wanted = std::min(length, left);
        while (wanted > split.lengths[split.document_index[entry]] - offset - num_extra &&
               entry + 1 < static_cast<std::int64_t>(split.document_index.size())) {
            wanted -= split.lengths[split.document_index[entry]] - offset;
            offset = 0;
            ++entry;
        }
        offset += wanted;
        split.sample_index.push_back(entry);
        split.sample_index.push_back(offset);
    }
}

void fuzz_samples(Bytes& bytes) {
    const std::int64_t num_documents = 1 + bytes.number(11), length = 1 + bytes.number(bytes.flag() ? 5 : 70);
    const bool is_narrow = bytes.flag();
    Split split;
    std::int64_t num_tokens = 0;
    for (std::int64_t i = 0; i < num_documents; ++i) {
        split.lengths.push_back(static_cast<std::int32_t>(bytes.flag() ? bytes.number(100) : bytes.number(4)));
        split.pointers.push_back(num_tokens * (is_narrow ? 2 : 4));
        split.document_index.push_back(static_cast<std::int32_t>(i));
        num_tokens += split.lengths.back();
    }
    for (std::int64_t i = 0; i < num_tokens; ++i) {
        if (is_narrow)
            split.narrow.push_back(static_cast<std::uint16_t>(bytes.number(9)));
        else
            split.wide.push_back(static_cast<std::int32_t>(bytes.number(9)) - 1);
    }
    gpt::Rules rules;
    rules.sequence_length = length;
    rules.num_extra = bytes.flag() ? 1 : 0;
    rules.pad_id = static_cast<std::int64_t>(bytes.number(12)) - 1;
    rules.eod_id = static_cast<std::int64_t>(bytes.number(12)) - 1;
    rules.eod_mask_loss = bytes.flag();
    rules.reset_position_ids = bytes.flag();
    rules.num_real_of_last = bytes.flag() ? length : static_cast<std::int64_t>(bytes.number(length));
    const std::uint64_t which = bytes.number(std::size(kStrategies));
    rules.mask.strategy = which == 0 ? nullptr : kStrategies[which - 1];
    rules.mask.ratio.points = {{0, 0, static_cast<double>(bytes.number(99)) / 100}};
    if (bytes.flag()) rules.mask.ratio.points[0].low = rules.mask.ratio.points[0].high;
    rules.mask.ratio.is_drawn = true;
    rules.mask.ratio.clean_fraction = static_cast<double>(bytes.number(9)) / 10;
    rules.mask.replacement.mask_id = 77;
    rules.mask.replacement.mask_below = bytes.number(4) << 30;
    rules.mask.replacement.random_below = rules.mask.replacement.mask_below + (bytes.number(4) << 30);
    rules.mask.replacement.num_ordinary = 5;
    rules.mask.replacement.excluded = {{0, 1}, {2, 1}};
    rules.mask.skip_first = bytes.flag() ? static_cast<std::int64_t>(bytes.number(90)) : 0;
    rules.mask.min_document_tokens = bytes.flag() ? static_cast<std::int64_t>(bytes.number(9)) : 0;
    rules.mark_changes = bytes.flag();
    rules.mask.span_length = 1 + bytes.number(80);
    rules.mask.global_batch_size = 1 + bytes.number(5);
    rules.mask.key = {static_cast<std::uint32_t>(bytes.number(UINT32_MAX)), 5};
    for (std::uint64_t i = bytes.number(3); i > 0; --i) rules.mask.protected_ids.push_back(bytes.number(9));
    cut(split, length, rules.num_extra, bytes.flag(), num_tokens);
    const std::int64_t num_samples = static_cast<std::int64_t>(split.sample_index.size()) / 2 - 1;
    for (std::int64_t i = 0; i < num_samples; ++i) split.shuffle_index.push_back(num_samples - 1 - i);
    if (num_samples == 0) return;

    const std::uint64_t num_damages = bytes.flag() ? bytes.number(3) : 0;
    for (std::uint64_t i = 0; i < num_damages; ++i) {
        switch (bytes.number(4)) {
            case 0:
                damage(bytes, split.lengths);
                break;
            case 1:
                damage(bytes, split.pointers);
                break;
            case 2:
                damage(bytes, split.document_index);
                break;
            case 3:
                damage(bytes, split.sample_index);
                break;
            default:
                damage(bytes, split.shuffle_index);
        }
    }
    gpt::Source source;
    source.ids = is_narrow ? static_cast<const void*>(split.narrow.data()) : split.wide.data();
    source.id_bytes = is_narrow ? 2 : 4;
    source.num_ids = num_tokens;
    source.pointers = split.pointers.data();
    source.lengths = split.lengths.data();
    source.num_documents = num_documents;
    source.document_index = split.document_index.data();
    source.num_entries = num_documents;
    source.has_wide_sample_index = source.has_wide_shuffle_index = bytes.flag();
    std::vector<std::int32_t> narrow_samples(split.sample_index.begin(), split.sample_index.end());
    std::vector<std::uint32_t> narrow_shuffle(split.shuffle_index.begin(), split.shuffle_index.end());
    const bool is_wide = source.has_wide_sample_index;
    source.sample_index = is_wide ? static_cast<const void*>(split.sample_index.data()) : narrow_samples.data();
    source.shuffle_index = is_wide ? static_cast<const void*>(split.shuffle_index.data()) : narrow_shuffle.data();
    source.num_samples = num_samples;

    const std::int64_t index = bytes.number(num_samples - 1);
    const bool is_batch_padding = bytes.number(9) == 0, has_segments = bytes.flag();
    const bool is_one_buffer = rules.num_extra == 1 && bytes.flag();
    if (is_one_buffer) rules.mask.strategy = nullptr;
    const auto size = static_cast<std::size_t>(length);
    const std::unique_ptr<std::int64_t[]> tokens(new std::int64_t[is_one_buffer ? size + 1 : size]);
    const std::unique_ptr<std::int64_t[]> labels(new std::int64_t[size]), position_ids(new std::int64_t[size]);
    const std::unique_ptr<float[]> loss_mask(new float[size]);
    const std::unique_ptr<std::int32_t[]> cu_seqlens(new std::int32_t[size + 1]), max_seqlen(new std::int32_t[1]);
    constexpr std::int64_t kUnwritten = 1 << 20;
    std::fill_n(tokens.get(), is_one_buffer ? size + 1 : size, kUnwritten);
    std::fill_n(labels.get(), size, kUnwritten);
    std::fill_n(position_ids.get(), size, kUnwritten);
    gpt::Out out;
    out.tokens = tokens.get();
    out.labels = is_one_buffer ? tokens.get() + 1 : labels.get();
    out.loss_mask = loss_mask.get();
    if (has_segments || bytes.flag()) out.position_ids = position_ids.get();
    if (has_segments) {
        out.cu_seqlens = cu_seqlens.get();
        out.max_seqlen = max_seqlen.get();
    }
    try {
        gpt::make_sample(source, rules, index, is_batch_padding, out);
    } catch (const gpt::DamagedIndex&) {
        // The one good index that is refused has too many empty documents for cu_seqlens.
        require(num_damages > 0 || has_segments, "a good index is read");
        return;
    }
    for (std::size_t i = 0; i < size; ++i) {
        require(out.tokens[i] >= -1 && out.tokens[i] <= 77, "every token is written");
        require(out.labels[i] >= -1 && out.labels[i] < 10, "every label is written, and none is masked");
        require(loss_mask[i] >= 0 && loss_mask[i] <= (rules.mark_changes ? 7 : 1), "every loss is written");
        if (out.position_ids != nullptr) require(position_ids[i] >= 0 && position_ids[i] < length, "positions");
    }
    require(out.tokens[size - 1] != 77, "the last input is never masked");
    if (!has_segments) return;
    for (std::size_t i = 0; i < size; ++i) require(cu_seqlens[i] <= cu_seqlens[i + 1], "bounds ascend");
    require(cu_seqlens[0] == 0 && cu_seqlens[size] == length, "segments cover the sample");
    require(max_seqlen[0] >= 1 && max_seqlen[0] <= length, "max_seqlen");
}

void fuzz_positions(Bytes& bytes) {
    Draw draw;
    draw.num_eligible = 1 + bytes.number(bytes.flag() ? 20 : 700);
    draw.count = 1 + bytes.number(draw.num_eligible - 1);
    draw.key = mask_key(bytes.number(UINT64_MAX), bytes.number(UINT64_MAX));
    draw.sample_index = draw.step = bytes.number(UINT64_MAX);
    draw.span_length = 1 + bytes.number(draw.num_eligible - 1);
    const std::unique_ptr<std::int64_t[]> positions(new std::int64_t[static_cast<std::size_t>(draw.count)]);
    kStrategies[bytes.number(std::size(kStrategies) - 1)]->choose(draw, positions.get());
    for (std::int64_t i = 0; i < draw.count; ++i) {
        require(positions[i] > (i == 0 ? -1 : positions[i - 1]) && positions[i] < draw.num_eligible,
                "sorted and distinct");
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Bytes bytes(data, size);
    if (bytes.number(3) == 0)
        fuzz_positions(bytes);
    else
        fuzz_samples(bytes);
    return 0;
}

#ifndef LIBFUZZER
int main(int argc, char** argv) {
    if (argc != 3) return std::fprintf(stderr, "usage: fuzz NUM_INPUTS SEED\n"), 2;
    std::uint64_t state = std::strtoull(argv[2], nullptr, 10);
    const auto next = [&state] {  // splitmix64
        std::uint64_t word = state += 0x9E3779B97F4A7C15u;
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9u;
        word = (word ^ (word >> 27)) * 0x94D049BB133111EBu;
        return word ^ (word >> 31);
    };
    const std::uint64_t num_inputs = std::strtoull(argv[1], nullptr, 10);
    std::vector<std::uint8_t> input;
    for (std::uint64_t i = 0; i < num_inputs; ++i) {
        input.resize(next() % 8 == 0 ? next() % 24 : 100 + next() % 400);
        for (std::size_t byte = 0; byte < input.size(); byte += 8) {
            const std::uint64_t word = next();
            std::memcpy(input.data() + byte, &word, std::min<std::size_t>(8, input.size() - byte));
        }
        LLVMFuzzerTestOneInput(input.data(), input.size());
    }
    std::printf("%llu inputs, no finding\n", static_cast<unsigned long long>(num_inputs));
    return 0;
}
#endif
