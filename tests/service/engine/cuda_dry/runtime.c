/* The CUDA libraries as far as ONNX Runtime's CUDA provider needs them to make its plans on a machine without a GPU.

   Memory of the device is memory of this process, copies copy, and what is launched does nothing: there are no
   kernels here, so nothing is ever computed. What can be seen is what ONNX Runtime decides and asks for: where it puts
   each node, what it copies within a run, what it captures and what it replays. Every function that is not below is
   generated beside it and returns 0, which is "success" in all of these libraries. */

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2, DEVICE_TO_DEVICE = 3, KINDS = 4 };

/* What is counted; read by name. */
long dry_copies[KINDS], dry_copies_captured[KINDS];
long dry_launches, dry_captures, dry_replays, dry_waits_captured, dry_disturbed;

static int capturing;
static pthread_t capturer;
static char *handle = (char *)4096; /* of things that are only passed around */

static int give(void **out) {
    *out = handle += 16;
    return 0;
}

/* A capture of CUDA's global mode, which ONNX Runtime uses, is broken off by what other threads do. */
static void disturb(void) { dry_disturbed += capturing && !pthread_equal(capturer, pthread_self()); }

/* ---- the device */

struct properties { /* cudaDeviceProp of CUDA 13, as far as it is read */
    char name[288];
    size_t memory, shared_per_block;
    int registers, warp;
    size_t pitch;
    int threads_per_block, threads[3], grid[3];
    size_t constant;
    int major, minor;
    size_t texture[2];
    int processors;
    char rest[1024];
};

int cudaGetDeviceProperties(struct properties *of, int device) {
    struct properties known = {"dry", (size_t)8 << 30, 49152, 65536, 32, 0, 1024, {1024, 1024, 64},
                               {2147483647, 65535, 65535}, 65536, 9, 0, {512, 32}, 132};
    memcpy(of, &known, offsetof(struct properties, rest));
    return 0;
}

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 1: *value = 1024; break;   /* threads of a block */
    case 10: *value = 32; break;    /* of a warp */
    case 16: *value = 132; break;   /* multiprocessors */
    case 39: *value = 2048; break;  /* threads of a multiprocessor */
    case 75: *value = 9; break;     /* compute capability 9.0 */
    case 76: *value = 0; break;
    case 97: *value = 232448; break; /* shared memory of a block */
    default: *value = 1;
    }
    return 0;
}

int cudaGetDeviceCount(int *count) { return *count = 1, 0; }
int cudaGetDevice(int *device) { return *device = 0; }
int cudaDriverGetVersion(int *version) { return *version = 13000, 0; }
int cudaRuntimeGetVersion(int *version) { return *version = 13000, 0; }
int cudaMemGetInfo(size_t *available, size_t *all) { return *available = *all = (size_t)8 << 30, 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks) { return *blocks = 2, 0; }

/* ---- memory */

int cudaMalloc(void **memory, size_t bytes) {
    disturb();
    return *memory = aligned_alloc(256, (bytes + 511) / 256 * 256), 0;
}
int cudaHostAlloc(void **memory, size_t bytes) { return cudaMalloc(memory, bytes); }
int cudaMallocHost(void **memory, size_t bytes) { return cudaMalloc(memory, bytes); }
int cudaFree(void *memory) { return free(memory), 0; }
int cudaFreeHost(void *memory) { return free(memory), 0; }

int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) {
    disturb();
    if (kind >= 0 && kind < KINDS) {
        dry_copies[kind]++;
        dry_copies_captured[kind] += capturing;
    }
    memmove(to, from, bytes);
    return 0;
}

int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind) { return cudaMemcpy(to, from, bytes, kind); }
int cudaMemset(void *memory, int value, size_t bytes) { return memset(memory, value, bytes), 0; }
int cudaMemsetAsync(void *memory, int value, size_t bytes) { return memset(memory, value, bytes), 0; }

/* ---- streams, events and graphs */

int cudaStreamCreate(void **stream) { return give(stream); }
int cudaStreamCreateWithFlags(void **stream) { return give(stream); }
int cudaEventCreate(void **event) { return give(event); }
int cudaEventCreateWithFlags(void **event) { return give(event); }
int cudaGraphInstantiate(void **graph) { return give(graph); }
int cudaGraphLaunch(void) { return dry_replays++, 0; }
int cudaStreamBeginCapture(void) {
    dry_captures++, capturer = pthread_self(), capturing = 1;
    return usleep(1000); /* on a GPU it takes longer too, and others have time to disturb it */
}
int cudaStreamEndCapture(void *stream, void **graph) { return capturing = 0, give(graph); }
int cudaStreamIsCapturing(void *stream, int *status) { return *status = capturing, 0; }
int cudaStreamSynchronize(void *stream) { return dry_waits_captured += capturing, 0; }
int cudaDeviceSynchronize(void) { return dry_waits_captured += capturing, 0; }

/* ---- launches */

int cudaLaunchKernel(void) { return dry_launches++, 0; }
int cudaLaunchKernelExC(void) { return dry_launches++, 0; }
int __cudaLaunchKernel(void) { return dry_launches++, 0; }
int cublasSgemm_v2(void) { return 0; }

struct dim3 { unsigned x, y, z; };
static struct { struct dim3 grid, block; size_t shared; void *stream; } configuration;

unsigned __cudaPushCallConfiguration(struct dim3 grid, struct dim3 block, size_t shared, void *stream) {
    configuration.grid = grid, configuration.block = block;
    configuration.shared = shared, configuration.stream = stream;
    return 0;
}

int __cudaPopCallConfiguration(struct dim3 *grid, struct dim3 *block, size_t *shared, void **stream) {
    *grid = configuration.grid, *block = configuration.block;
    *shared = configuration.shared, *stream = configuration.stream;
    return 0;
}

void **__cudaRegisterFatBinary(void *binary) {
    static void *registered;
    return &registered;
}

int __cudaGetKernel(const void **kernel, const void *function) { return *kernel = function, 0; }
const char *cudaGetErrorString(int error) { return "dry"; }
const char *cudaGetErrorName(int error) { return "dry"; }

/* ---- products */

int cublasCreate_v2(void **of) { return give(of); }
int cublasGetMathMode(void *of, int *mode) { return *mode = 0; }
const char *cublasGetStatusName(int status) { return "dry"; }
const char *cublasGetStatusString(int status) { return "dry"; }
int cublasLtCreate(void **of) { return give(of); }
int cublasLtMatmulDescCreate(void **of) { return give(of); }
int cublasLtMatrixLayoutCreate(void **of) { return give(of); }
int cublasLtMatmulPreferenceCreate(void **of) { return give(of); }
int cublasLtMatmulAlgoGetHeuristic(void *a, void *b, void *c, void *d, void *e, void *f, void *g, int wanted,
                                   void *results, int *found) {
    return *found = 1, 0;
}
