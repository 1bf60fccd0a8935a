// Feathers as its guide makes it: a Knex service on Postgres, Socket.IO, and a channel for each account.
const { feathers } = require('@feathersjs/feathers')
const { koa } = require('@feathersjs/koa')
const { KnexService } = require('@feathersjs/knex')
const socketio = require('@feathersjs/socketio')
const knex = require('knex')

const db = knex({
  client: 'pg',
  connection: process.env.PEER_DATABASE,
  pool: { min: 2, max: 10 } // Knex' own default
})
const app = koa(feathers())

app.configure(
  socketio({ transports: ['websocket'], pingInterval: 600000, pingTimeout: 600000 }, (io) => {
    io.use((socket, next) => {
      socket.feathers.account = Number(socket.handshake.query.account)
      next()
    })
  })
)
app.use('changes', new KnexService({ Model: db, name: 'changes', id: 'id' }), { methods: ['create', 'find'] })
app.on('connection', (connection) => app.channel(`account/${connection.account}`).join(connection))

const changes = app.service('changes')
changes.hooks({
  before: {
    create: [
      async (context) => {
        context.data = { ...context.data, account: context.params.account }
      }
    ]
  }
})
changes.publish((data) => app.channel(`account/${data.account}`))

async function main() {
  await db.schema.createTable('changes', (table) => {
    table.bigIncrements('id')
    table.integer('account').notNullable()
    table.text('body').notNullable()
    table.timestamp('at').defaultTo(db.fn.now())
    table.index(['account', 'id'])
  })
  await app.listen(Number(process.env.PEER_PORT), '127.0.0.1')
}
main()
