// What llama.cpp's own loader makes of control vector files: a line a file, `FILE n_embd` and then, for every layer from 1 on,
// the sum of its numbers and of their squares. n_embd is -1 where the file is refused.
//
//     g++ -std=c++17 -I SOURCE/common -I SOURCE/include -I SOURCE/ggml/include vectors.cpp BUILD/common/libllama-common.a ... -o BUILD/bin/loader

#include "common.h"

#include <cstdio>

int main(int argc, char ** argv) {
    for (int i = 1; i < argc; i++) {
        const auto vector = common_control_vector_load({ { 1.0f, argv[i] } });
        printf("%s %d", argv[i], vector.n_embd);
        for (size_t at = 0; vector.n_embd > 0 && at < vector.data.size(); at += vector.n_embd) {
            double sum = 0, squares = 0;
            for (int j = 0; j < vector.n_embd; j++) {
                sum += vector.data[at + j];
                squares += (double) vector.data[at + j] * vector.data[at + j];
            }
            printf(" %.6f %.6f", sum, squares);
        }
        printf("\n");
    }
}
