// What test_native.py counts instructions of: WHAT, done NUM times over the same made-up data.
//
//   instructions (sample | sample_unmasked | sample_segments | sample_random | sample_mix | sample_documents |
//   positions | span) NUM
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "gpt/sample.hpp"
#include "strategies/registry.hpp"

int main(int argc, char** argv) {
    using namespace meap;
    if (argc != 3) return 2;
    const std::string what = argv[1];
    const int num = std::atoi(argv[2]);
    constexpr std::int64_t kLength = 4096, kDocuments = 400, kTokens = 600;

    std::vector<std::uint16_t> ids(kDocuments * kTokens);
    std::vector<std::int32_t> lengths(kDocuments, kTokens), document_index;
    std::vector<std::int64_t> pointers;
    std::uint32_t word = 1;
    for (std::uint16_t& id : ids) id = static_cast<std::uint16_t>((word = word * 1664525u + 1013904223u) >> 17);
    for (std::int32_t i = 0; i < kDocuments; ++i) {
        pointers.push_back(2 * kTokens * i);
        document_index.push_back(static_cast<std::int32_t>(i * 7 % kDocuments));
    }
    const std::int64_t num_samples = (kDocuments * kTokens - 1) / kLength;
    std::vector<std::int32_t> sample_index;
    std::vector<std::uint32_t> shuffle_index;
    for (std::int64_t i = 0; i <= num_samples; ++i) {
        sample_index.push_back(static_cast<std::int32_t>(i * kLength / kTokens));
        sample_index.push_back(static_cast<std::int32_t>(i * kLength % kTokens));
        if (i < num_samples) shuffle_index.push_back(static_cast<std::uint32_t>(num_samples - 1 - i));
    }
    gpt::Source source;
    source.ids = ids.data();
    source.id_bytes = 2;
    source.num_ids = static_cast<std::int64_t>(ids.size());
    source.pointers = pointers.data();
    source.lengths = lengths.data();
    source.num_documents = kDocuments;
    source.document_index = document_index.data();
    source.num_entries = kDocuments;
    source.sample_index = sample_index.data();
    source.shuffle_index = shuffle_index.data();
    source.num_samples = num_samples;

    gpt::Rules rules;
    rules.sequence_length = rules.num_real_of_last = kLength;
    rules.pad_id = rules.mask.replacement.mask_id = 40'000;
    rules.eod_id = -1;
    rules.mask.ratio.points = {{0, 0.15, 0.15}};
    rules.mask.key = mask_key(1234, 5678);
    if (what != "sample_unmasked") rules.mask.strategy = &kRandom;

    if (what == "sample_random" || what == "sample_mix") {
        rules.mask.replacement.mask_below = what == "sample_mix" ? 3435973837 : 0;   // 80 % of 2^32
        if (what == "sample_mix") rules.mask.replacement.random_below = 3865470566;  // 90 %
        rules.mask.replacement.num_ordinary = 31'997;
        rules.mark_changes = true;
    }
    rules.mask.min_document_tokens = what == "sample_documents" ? 500 : 0;

    std::vector<std::int64_t> tokens(kLength + 1), labels(kLength), position_ids(kLength), chosen(kLength);
    std::vector<float> loss_mask(kLength);
    std::vector<std::int32_t> cu_seqlens(kLength + 1), max_seqlen(1);
    gpt::Out out;
    out.tokens = tokens.data();
    out.labels = what == "sample_unmasked" ? tokens.data() + 1 : labels.data();
    out.loss_mask = loss_mask.data();
    if (what == "sample_segments") {
        out.position_ids = position_ids.data();
        out.cu_seqlens = cu_seqlens.data();
        out.max_seqlen = max_seqlen.data();
    }
    for (int i = 0; i < num; ++i) {
        if (what == "positions") {
            random_positions({rules.mask.key, static_cast<std::uint64_t>(i), kLength - 1, 614}, chosen.data());
        } else if (what == "span") {
            span_positions({rules.mask.key, static_cast<std::uint64_t>(i), kLength - 1, 614, 5}, chosen.data());
        } else {
            gpt::make_sample(source, rules, i % num_samples, false, out);
        }
    }
    std::printf("%lld\n", static_cast<long long>(tokens[5] + labels[7] + chosen[3]));
    return 0;
}
