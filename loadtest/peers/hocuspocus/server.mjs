// Hocuspocus with its SQLite extension, a document in one file of SQLite; nothing else is set than how soon it stores.
import { SQLite } from '@hocuspocus/extension-sqlite'
import { Server } from '@hocuspocus/server'

const debounce = process.env.PEER_DEBOUNCE === undefined ? {} : { debounce: Number(process.env.PEER_DEBOUNCE) }

const server = new Server({
  port: Number(process.env.PEER_PORT),
  address: '127.0.0.1',
  quiet: true,
  timeout: 600000,
  extensions: [new SQLite({ database: process.env.PEER_FILE })],
  ...debounce
})
server.listen()
