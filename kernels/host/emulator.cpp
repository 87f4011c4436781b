// The CUDA emulator: runs the kernels of this folder's parent, compiled as host C++, block by block on fibers with real barriers, and
// checks them. One translation unit in five parts, so that what is called per access can be inlined.
#include "table.h"
#include <dlfcn.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>
typedef uintptr_t up;
struct EmuOpts {
    int order, seed, cp_early, check, threads, max_smem;
};
static EmuOpts opt = {0, 1, 0, 1, 1, 163 * 1024};
extern "C" void emu_set_opts(const EmuOpts* o) { opt = *o; }
#include "memory.hpp"
#include "fibers.hpp"
#include "checker.hpp"
#include "collectives.hpp"
#include "launch.hpp"
