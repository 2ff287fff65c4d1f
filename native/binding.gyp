# node-gyp configure build -C native           -> build/Release/{oomlab.node,stress,init}
# node-gyp configure build -C native --debug   -> build/Debug, all with ASan and UBSan; run the tests on it with
#   OOMLAB_NATIVE=native/build/Debug LD_PRELOAD=$(g++ -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0
{
  'variables': {
    # musl makes the worker a quarter of glibc's size; empty where it is not installed.
    'musl_specs%': '<!(ls /usr/lib/$(uname -m)-linux-musl/musl-gcc.specs 2>/dev/null || true)',
    # 1: the addon carries libstdc++ in itself and loads on glibc and musl alike (scripts/prebuilds.mjs).
    'portable%': 0,
    'oomlab_version': '<!(node -p "require(\'../package.json\').version")',
  },
  'target_defaults': {
    'cflags': ['-Wall', '-Wextra', '-Werror', '-Wunused-parameter'],
    'cflags_cc!': ['-std=gnu++17'],
    'cflags_cc': ['-std=c++17'],
    'defines': ['_GNU_SOURCE', 'OOMLAB_VERSION="<(oomlab_version)"'],
    'configurations': {
      'Debug': {
        'cflags!': ['-O0'],
        'cflags': ['-O1', '-g', '-fsanitize=address,undefined', '-fno-sanitize-recover=all'],
        'ldflags': ['-fsanitize=address,undefined'],
      },
    },
    'target_conditions': [
      ['_type=="executable"', {
        'ldflags!': ['-rdynamic'],
        'cflags_cc': ['-fno-exceptions', '-fno-rtti', '-fno-threadsafe-statics'],
        'configurations': {
          'Release': {
            'cflags!': ['-O3', '-fno-omit-frame-pointer'],
            'cflags': ['-Os', '-fno-pie', '-ffunction-sections', '-fno-asynchronous-unwind-tables'],
            # All of it within one window of the kernel's fault-around: a page fault costs more than the rest of a start.
            'ldflags': ['-static', '-no-pie', '-Wl,--gc-sections', '-Wl,-z,noseparate-code', '-Wl,-z,norelro', '-s'],
            'conditions': [
              ['musl_specs!=""', {
                'cflags': ['-specs=<(musl_specs)', '-nostdinc++'],
                'ldflags': ['-specs=<(musl_specs)'],
              }],
            ],
          },
        },
      }],
    ],
  },
  'targets': [
    {
      'target_name': 'oomlab',
      'sources': [
        'addon.cc',
        'allocate.cc',
        'base.cc',
        'children.cc',
        'kmsg.cc',
        'memory.cc',
        'spawn.cc',
        'system.cc',
        'values.cc',
        'watch.cc',
      ],
      'dependencies': ['<!(node -p "require(\'node-addon-api\').targets"):node_addon_api_except'],
      'defines': ['NAPI_VERSION=9'],
      'conditions': [
        ['portable==1', {
          'sources': ['portable.cc'],
          'cflags': ['-ffunction-sections', '-fdata-sections'],
          'ldflags': ['-nodefaultlibs', '-Wl,--gc-sections', '-Wl,--exclude-libs,ALL', '-s'],
          # Not -lc: its linker script names glibc's loader, which musl has not. musl takes libc.so.6 for itself.
          'libraries': ['-l:libstdc++.a', '-lgcc_s', '-lgcc', '-l:libc.so.6', '-l:libc_nonshared.a'],
        }],
      ],
    },
    {
      'target_name': 'stress',
      'type': 'executable',
      'sources': [
        'base.cc',
        'flags.cc',
        'hogs.cc',
        'limit.cc',
        'memory.cc',
        'options.cc',
        'pace.cc',
        'press.cc',
        'quantities.cc',
        'report.cc',
        'say.cc',
        'stress.cc',
        'usage.cc',
      ],
    },
    {
      'target_name': 'init',
      'type': 'executable',
      'sources': ['base.cc', 'init.cc'],
    },
  ],
}
