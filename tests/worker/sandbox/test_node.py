"""A JavaScript job sees no difference between a Node that waited and one that was started.

Each program runs both ways; what it writes and how it ends must be the same, byte for byte. The
programs run in the system's Node and in the wheel's, which are different versions.
"""

import asyncio
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from gridx.worker.sandbox.base import Limits, Program
from gridx.worker.sandbox.bubblewrap import Bubblewrap
from tests.worker.sandbox import traces
from tests.worker.sandbox.runs import run

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAME = {
    "nothing": "",
    "print": "console.log(1, 'ü', [undefined, {a: 1n}])",
    "argv": "console.log(process.argv, process.argv0, process.argv.length)",
    "exec argv": "console.log(process.execArgv, process.execPath, process.version)",
    "main": "console.log(require.main === module, process.mainModule === module, module.id)",
    "module": "console.log(module, module.parent, exports === module.exports, this === exports)",
    "file": "console.log(__filename, __dirname, module.paths, require.resolve.paths('x'))",
    "cache": "console.log(Object.keys(require.cache), module.children, Object.keys(require))",
    "path cache": "console.log(Object.keys(require('module')._pathCache))",
    "global paths": "console.log(require('module').globalPaths)",
    "loaded": "console.log(process.moduleLoadList.join('\\n'))",
    "globals": "console.log(Object.getOwnPropertyNames(globalThis), Object.keys(globalThis))",
    "process": "console.log(Object.getOwnPropertyNames(process).sort())",
    "listeners": (
        "for (const n of process.eventNames())"
        " console.log(n, process.listeners(n).map(f => `${f.name} ${f}`))"
    ),
    "environ": "console.log(process.env, Object.keys(process.env))",
    "putenv": (
        "process.env.A = 'b';"
        "console.log(require('child_process').execSync('printenv A K NODE_OPTIONS; true') + '')"
    ),
    "child environ": "console.log(require('child_process').execSync('env | sort') + '')",
    "cwd": "console.log(process.cwd(), require('fs').readdirSync('.'))",
    "own file": (
        "const s = require('fs').statSync(__filename);"
        "console.log(s.mode.toString(8), s.size, s.uid === process.getuid(), s.nlink)"
    ),
    "ids": "console.log(process.getuid() === process.getgid(), process.pid, process.ppid)",
    "mask": "console.log(process.umask().toString(8), process.getgroups().length)",
    "descriptors": "console.log(require('fs').readdirSync('/dev/fd').sort())",
    "next descriptor": "console.log(require('fs').openSync('/dev/null'))",
    "high descriptors": (
        "for (const fd of [60, 61, 62, 63, 64])"
        " try { require('fs').fstatSync(fd); console.log(fd) } catch (e) { console.log(e.code) }"
    ),
    "limits": "console.log(require('child_process').execSync('ulimit -n; ulimit -c; ulimit -l') + '')",
    "signals": "console.log(require('child_process').execSync('yes | head -1; trap') + '')",
    "broken pipe": "require('child_process').exec('exec sleep 9').on('exit', (c, s) => console.log(c, s))"
    ".kill('SIGPIPE')",
    "stdin": "console.log(JSON.stringify(require('fs').readFileSync(0, 'utf8')))",
    "stdin stream": (
        "let s = ''; process.stdin.setEncoding('utf8').on('data', d => s += d)"
        ".on('end', () => console.log(JSON.stringify(s), process.stdin.constructor.name))"
    ),
    "stdin lines": (
        "require('readline').createInterface({input: process.stdin})"
        ".on('line', l => console.log(l)).on('close', () => console.log('closed'))"
    ),
    "streams": (
        "for (const s of [process.stdin, process.stdout, process.stderr])"
        " console.log(s.constructor.name, s.fd, s.isTTY, s.writable, s.readable, s._type)"
    ),
    "stderr": "console.error('to err'); process.stderr.write('more')",
    "binary": "process.stdout.write(Buffer.from([...Array(256).keys()]))",
    "much": "console.log('x'.repeat(300000)); process.exitCode = 2",
    "order": "console.log('a'); require('fs').writeSync(1, 'b\\n'); console.log('c')",
    "exit": "process.exit(3)",
    "exit code": "process.exitCode = 4; console.log('x')",
    "exit twice": "process.on('exit', c => { console.log(c); process.exit(c + 1) }); process.exit(5)",
    "on exit": "process.on('exit', c => console.log('exit', c)); process.on('beforeExit', () =>"
    " console.log('before'))",
    "throws": "function f(n) {\n  throw new TypeError('bad ' + n)\n}\n\nconsole.log('x')\nf(0)",
    "throws on line one": "throw new Error('x')",
    "throws a string": "throw 'why'",
    "throws later": "setTimeout(() => { throw new Error('later') }, 1)",
    "throws in a tick": "process.nextTick(() => { null.x })",
    "stack": "console.log(new Error('x').stack)",
    "long stack": "Error.stackTraceLimit = 99; console.log(new Error('x').stack)",
    "depth": "let n = 0; const f = () => { n++; f() };\ntry { f() } catch (e) { console.log(e.message) }",
    "cause": "throw new Error('a', {cause: new AggregateError([new Error('b')], 'c')})",
    "rejects": "Promise.reject(new Error('x')); setTimeout(() => console.log('never'), 50)",
    "rejects with a value": "Promise.reject(7)",
    "rejection is handled": "process.on('unhandledRejection', (e) => console.log('seen', e.message));"
    "Promise.reject(new Error('x'))",
    "exception is handled": "process.on('uncaughtException', (e, o) => console.log(e.message, o));"
    "setTimeout(() => console.log('goes on'), 5); throw new Error('x')",
    "syntax": "console.log('never')\nlet a = ;",
    "syntax in a function": "function f( {\n",
    "strict": "'use strict'; console.log(this === module.exports); undeclared = 1",
    "sloppy": "undeclared = 1; console.log(undeclared, (function () { return this === globalThis })())",
    "hash bang": "#!/usr/bin/env node\nconsole.log('x')",
    "byte order mark": "\ufeffconsole.log('marked')",
    "lone surrogate": "console.log('\udcff'.length)",
    "return": "console.log(1); return; console.log(2)",
    "module syntax": "import fs from 'fs';\nconsole.log(typeof fs.readFileSync, import.meta.url)",
    "module path": "import p from 'node:path';\nconsole.log(import.meta.filename, import.meta.dirname,"
    " typeof require, this)",
    "module throws": "import 'fs';\nthrow new Error('in a module')",
    "module fails": "import nothing from 'nowhere';",
    "export": "export const a = 1;\nconsole.log(a)",
    "top-level await": "const a = await Promise.resolve(5);\nconsole.log(a, typeof module)",
    "await that never ends": "import 'fs'; await new Promise(() => {});",
    "dynamic import": "import('fs').then(m => console.log(Object.keys(m).length, m.default === require('fs')))",
    "import of itself": "import('./main.js').then(m => console.log(m, Object.keys(require.cache)))",
    "required again": "console.log(require('./main.js') === module.exports, require('./main') === exports)",
    "own package": (
        "const fs = require('fs'); fs.mkdirSync('node_modules/p', {recursive: true});"
        "fs.writeFileSync('node_modules/p/index.js', 'module.exports = module.paths');"
        "console.log(require('p'), Object.keys(require.cache), module.children.length)"
    ),
    "missing module": "require('nowhere')",
    "timers": "setTimeout(() => console.log('t'), 2); setImmediate(() => console.log('i'));"
    "Promise.resolve().then(() => console.log('p')); process.nextTick(() => console.log('n'))",
    "timer waits": "const t = Date.now(); setTimeout(() => console.log(Date.now() - t > 95), 100)",
    "interval": "let n = 0; const i = setInterval(() => { console.log(n); if (++n > 2) clearInterval(i) }, 2)",
    "async ids": "const a = require('async_hooks'); console.log(a.executionAsyncId(),"
    " a.triggerAsyncId(), new a.AsyncResource('x').asyncId())",
    "interrupted": "process.kill(process.pid, 'SIGINT'); setTimeout(() => console.log('x'), 500)",
    "terminated": "process.kill(process.pid, 'SIGTERM'); setTimeout(() => console.log('x'), 500)",
    "signal is handled": "process.on('SIGTERM', (s) => { console.log(s); process.exit(6) });"
    "setTimeout(() => {}, 5000); process.kill(process.pid, 'SIGTERM')",
    "aborted": "console.log('before'); require('fs').closeSync(2); process.abort()",
    "thread": (
        "const {Worker, isMainThread, threadId} = require('worker_threads');"
        "new Worker(`console.log(process.argv, process.execArgv, Object.keys(require.cache),"
        " Object.keys(require('module')._pathCache), process.env, process.moduleLoadList.length,"
        " require('worker_threads').threadId)`, {eval: true}).on('exit', c => console.log(c,"
        " isMainThread, threadId))"
    ),
    "thread with options": (
        "const {Worker} = require('worker_threads');"
        "new Worker('console.log(process.execArgv, process.env, process.argv); x', {eval: true,"
        " env: {A: '1'}, argv: ['z'], execArgv: ['--no-warnings']})"
        ".on('error', e => console.log(e.stack))"
    ),
    "thread of a file": (
        "const w = require('worker_threads');"
        "if (w.isMainThread) new w.Worker(__filename, {workerData: 1});"
        "else console.log(w.workerData, require.main === module, module.id, process.execArgv)"
    ),
    "forked": (
        "const c = require('child_process');"
        "if (process.send) { process.send([process.argv, process.execArgv, Object.keys(process.env)]);"
        " process.disconnect() } else c.fork(__filename, ['q']).on('message', m => console.log(m))"
    ),
    "cluster": (
        "const c = require('cluster');"
        "if (c.isPrimary) c.fork().on('exit', n => console.log(n, c.settings.execArgv));"
        "else process.exit(process.execArgv.length)"
    ),
    "node itself": "console.log(require('child_process').execFileSync(process.execPath,"
    " ['-p', 'process.execArgv']) + '')",
    "warning": "process.emitWarning('careful'); new Buffer(1)",
    "deprecation": "require('punycode'); require('url').parse('http://[::1')",
    "config": "console.log(process.config, process.features, process.release.name)",
    "options": "console.log(process.allowedNodeEnvironmentFlags.size, process.noDeprecation)",
    "user": "const o = require('os'), u = o.userInfo(); console.log(u.username, u.homedir, u.shell,"
    " o.homedir(), o.tmpdir(), o.hostname())",
    "locale": "console.log(Intl.DateTimeFormat().resolvedOptions(), 1e6.toLocaleString())",
    "date": "console.log(new Date(0).toString(), new Date(0).getTimezoneOffset())",
    "crypto": "console.log(require('crypto').createHash('sha256').update('a').digest('hex'))",
    "vm": "console.log(require('vm').runInNewContext('this.constructor.name + typeof process'))",
    "eval": "console.log(eval('typeof module'), new Function('return typeof module')())",
    "gc": "console.log(typeof gc, typeof WebAssembly, typeof fetch, typeof navigator)",
    "shared memory": "console.log(new Uint8Array(new SharedArrayBuffer(4)).length, Atomics.wait(new"
    " Int32Array(new SharedArrayBuffer(4)), 0, 0, 5))",
    "sockets": (
        "const n = require('net'); const s = n.createServer(c => c.end('x')).listen(0, '127.0.0.1',"
        " () => n.connect(s.address().port).on('data', d => { console.log(d + ''); s.close() }))"
    ),
    "resources": "console.log(process.getActiveResourcesInfo(), process._getActiveHandles().length)",
    "diagnostics": "console.log(require('diagnostics_channel').hasSubscribers('x'), module.loaded)",
}
PROGRAM = ("a", "b c", "ü"), {"K": "v", "USER": "me", "LATE": "ü=1"}, "one\ntwo\n"
SHOWS_ITS_START = ("console.log('uptime')", "console.log('/proc/self/cmdline')")


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["system", "wheel"])
async def both(request: pytest.FixtureRequest) -> AsyncGenerator[tuple[Bubblewrap, Bubblewrap]]:
    """One sandbox in which a Node waits and one in which none does."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "wheel":
            patch.setenv("PATH", "/nonexistent")
        waits, cold = Bubblewrap(), Bubblewrap(template=False)
    await waits.open()
    await cold.open()
    await run(waits, Program("javascript", ""))
    yield waits, cold
    await waits.close()
    await cold.close()


@pytest.mark.parametrize("name", SAME)
async def test_as_after_a_cold_start(both: tuple[Bubblewrap, Bubblewrap], name: str) -> None:
    waits, cold = both
    args, env, stdin = PROGRAM
    program = Program("javascript", SAME[name], args, env, stdin)
    limits = Limits(timeout_s=10.0)
    waiting = await traces.waiting_node()
    async with asyncio.TaskGroup() as tasks:
        warm_run = tasks.create_task(run(waits, program, limits))
        cold_run = tasks.create_task(run(cold, program, limits))
    assert waiting not in traces.waiting_nodes()
    warm_ran, cold_ran = warm_run.result(), cold_run.result()
    assert warm_ran.stdout == cold_ran.stdout
    assert warm_ran.stderr == cold_ran.stderr
    assert warm_ran.end == cold_ran.end


@pytest.mark.parametrize(
    "program",
    [
        *(Program("javascript", code) for code in SHOWS_ITS_START),
        Program("javascript", "", env={"NODE_OPTIONS": "--no-warnings"}),
        Program("javascript", "", args=("\udcff",)),
    ],
)
async def test_what_would_see_a_difference_starts_cold(
    both: tuple[Bubblewrap, Bubblewrap], program: Program
) -> None:
    waits, _ = both
    waiting = await traces.waiting_node()
    ran = await run(waits, program)
    assert ran.end == (0, None), ran
    assert waiting in traces.waiting_nodes()
