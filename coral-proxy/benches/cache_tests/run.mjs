// Runs the tests of a checkout of http-tests/cache-tests against nodes, and prints one JSON object a line for each.
//
// usage: node run.mjs CHECKOUT ORIGIN ONE OTHER first|last [ID]
//
// ORIGIN is asked for what is no test: where the script of a test is left, and what the origin has seen of it. With `first`
// node ONE gets the first request of each test and OTHER all that follow; with `last` OTHER gets the last one, and ONE all
// before. They may be the same node. With ID only that test is run, and its requests and responses are shown.

import { existsSync } from 'node:fs'
import { register } from 'node:module'
import { pathToFileURL } from 'node:url'
import path from 'node:path'

const [checkout, origin, one, other, which, only] = process.argv.slice(2)

if (!existsSync(path.join(checkout, 'node_modules/undici'))) {
  const standIn = JSON.stringify(new URL('undici.mjs', import.meta.url).href)
  const resolve = `export const resolve = (name, context, next) => name === 'undici' ? { url: ${standIn}, shortCircuit: true } : next(name, context)`
  register('data:text/javascript,' + encodeURIComponent(resolve))
}

const from = file => import(pathToFileURL(path.join(checkout, file)))
const { default: suites } = await from('tests/index.mjs')
const { runTests, getResults } = await from('test-engine/client/runner.mjs')
const { determineTestResult } = await from('test-engine/lib/results.mjs')

const lengths = new Map(suites.flatMap(suite => suite.tests.map(test => [test.id, test.requests.length])))
const node = headers => {
  const field = wanted => headers.find(([name]) => name === wanted)?.[1]
  const number = Number(field('Req-Num'))
  const turns = which === 'first' ? number > 1 : number === lengths.get(field('Test-ID'))
  return turns ? other : one
}

const plain = globalThis.fetch
globalThis.fetch = (url, init) => {
  const { pathname, search } = new URL(url)
  const base = pathname.startsWith('/test/') ? node(init.headers) : origin
  return plain(base + pathname + search, init)
}

const meant = suite => ({ ...suite, tests: suite.tests.filter(test => !only || test.id === only) })
if (only) suites.forEach(suite => suite.tests.forEach(test => { test.dump = test.id === only }))
await runTests(suites.map(meant), false, 'http://cache')

const results = getResults()
for (const suite of suites) {
  for (const test of suite.tests) {
    if (!(test.id in results)) continue
    const [, , symbol] = determineTestResult(suites, test.id, results, !only)
    const result = results[test.id]
    console.log('RESULT ' + JSON.stringify({
      suite: suite.id,
      id: test.id,
      kind: test.kind ?? 'required',
      symbol,
      detail: result === true ? '' : `${result[1]}`
    }))
  }
}
