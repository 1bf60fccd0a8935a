// Makes what Jazz' devices would say, with Jazz' own library: an account's group and feed, and signed changes of three
// sessions.  One line of JSON for an account to standard output.  node frames.mjs ACCOUNTS EACH COUNT
import { writeSync } from 'node:fs'
import { LocalNode } from 'cojson'
import { WasmCrypto } from 'cojson/crypto/WasmCrypto'
import { StreamingHash } from 'cojson/dist/crypto/crypto.js'
import { stableStringify } from 'cojson/dist/jsonStringify.js'

const BODY_BYTES = 256
const LETTERS = 'ABCDEFGHIJKLMNOPRSTUVWXYZabcdefghijklmnoprstuvwxyz0123456789-_'
const [accounts, each, count] = process.argv.slice(2).map(Number)
const crypto = await WasmCrypto.create()

function body(device, number) {
  let text = `qZB${device.toString(16).padStart(6, '0')}${number.toString(16).padStart(8, '0')}`
  while (text.length < BODY_BYTES) text += LETTERS[Math.floor(Math.random() * LETTERS.length)]
  return text
}

function changes(feed, session, signer, device) {
  const hash = new StreamingHash(crypto)
  return Array.from({ length: count }, (_, after) => {
    const transaction = {
      privacy: 'trusting',
      madeAt: Date.now(),
      changes: stableStringify([body(device, after + 1)])
    }
    hash.update(transaction)
    const lastSignature = crypto.sign(signer, hash.digest())
    const said = { [session]: { after, newTransactions: [transaction], lastSignature } }
    return JSON.stringify({ action: 'content', id: feed.id, priority: feed.priority, new: said })
  })
}

function out(line) {
  const bytes = Buffer.from(line + '\n')
  for (let at = 0; at < bytes.length; ) at += writeSync(1, bytes, at)
}

for (let account = 0; account < accounts; account++) {
  const secret = crypto.newRandomAgentSecret()
  const agent = crypto.getAgentID(secret)
  const node = new LocalNode(secret, crypto.newRandomSessionID(agent), crypto)
  const group = node.createGroup()
  const content = [group, group.createStream()].flatMap((value) => value.core.verified.newContentSince(undefined))
  const feed = content.at(-1)
  const signer = crypto.getAgentSignerSecret(secret)
  const devices = Array.from({ length: each }, (_, n) =>
    changes(feed, crypto.newRandomSessionID(agent), signer, account * each + n)
  )
  out(JSON.stringify({ feed: feed.id, content, devices }))
}
process.exit(0)
