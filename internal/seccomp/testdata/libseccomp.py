#!/usr/bin/env python3
"""Asks libseccomp for the filters of profiles: reads a list of jobs as JSON, writes a list of answers.

Called by TestLibseccomp with -update (see libseccomp_test.go), where the names that libseccomp does not know are also learned.
"""
import base64
import ctypes
import json
import os
import signal
import sys
import tempfile

lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)


class Cmp(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


lib.seccomp_init.restype = ctypes.c_void_p
lib.seccomp_init.argtypes = [ctypes.c_uint32]
lib.seccomp_release.argtypes = [ctypes.c_void_p]
lib.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
lib.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Cmp)]
lib.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
lib.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]

EEXIST = 17


def answer(job):
    ctx = lib.seccomp_init(job["default"])
    if not ctx:
        return {"error": "init"}
    try:
        for token in job["arches"] or []:
            r = lib.seccomp_arch_add(ctx, token)
            if r and -r != EEXIST:
                return {"error": "arch %x: %d" % (token, r)}
        unknown = set()
        for rule in job["rules"] or []:
            nr = lib.seccomp_syscall_resolve_name(rule["name"].encode())
            if nr == -1:
                unknown.add(rule["name"])
                continue
            args = rule["args"] or []
            cmps = (Cmp * max(1, len(args)))(*[Cmp(a["index"], a["op"], a["a"], a["b"]) for a in args])
            r = lib.seccomp_rule_add_array(ctx, rule["action"], nr, len(args), cmps)
            if r and -r != EEXIST:
                return {"error": "rule %s: %d" % (rule["name"], r)}
        with tempfile.TemporaryFile() as f:
            r = lib.seccomp_export_bpf(ctx, f.fileno())
            if r:
                return {"error": "export: %d" % r}
            f.seek(0)
            return {"prog": base64.b64encode(f.read()).decode(), "unknown": sorted(unknown)}
    finally:
        lib.seccomp_release(ctx)


def patiently(job):
    """Rules that overlap make it think for hours: each job has a process that ends after two seconds."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(r)
        signal.alarm(2)
        with os.fdopen(w, "w") as f:
            json.dump(answer(job), f)
        os._exit(0)
    os.close(w)
    with os.fdopen(r) as f:
        text = f.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(text) if status == 0 else {"error": "too hard"}


json.dump([patiently(job) for job in json.load(sys.stdin)], sys.stdout)
