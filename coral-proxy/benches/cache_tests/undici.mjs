// In place of the package undici where the checkout has none: as much of it as the suite uses, over the undici that is built
// into Node.js and does not let itself be imported.
//
// The suite hands `fetch` an agent whose interceptor sees all responses, the interim ones as well, which `fetch` itself keeps quiet
// about. The dispatcher behind `fetch` tells of both by `onHeaders`.

const builtIn = Symbol.for('undici.globalDispatcher.1')

export class Agent {
  compose (interceptor) {
    return { dispatch: (options, handler) => globalThis[builtIn].dispatch(options, watched(handler, interceptor, options)) }
  }
}

// `handler`, with the interceptor's own told of each response first.
function watched (handler, interceptor, options) {
  let watcher
  interceptor((_, inner) => { watcher = inner })(options, {})
  return new Proxy(handler, {
    get (target, name) {
      const value = target[name]
      if (typeof value !== 'function') return value
      return (...args) => {
        if (name === 'onHeaders') {
          const [status, fields, , text] = args
          watcher.onResponseStart(null, status, fieldsOf(fields), text)
        }
        return value.apply(target, args)
      }
    }
  })
}

// Names and values, which come by turns as bytes, as one object.
function fieldsOf (raw) {
  const fields = {}
  for (let i = 0; i < raw.length; i += 2) fields[raw[i].toString().toLowerCase()] = raw[i + 1].toString()
  return fields
}
