"""The client: connecting, sending, results and the pool."""

# The modules, each of which imports only those below it:
#
#   pool          connections that are kept and shared
#   connect       from a host name to an open session; TLS that is tried and given up
#   client        Client: one method for each verb, send, send_message, send_many
#   pipeline      many messages, which overlap
#   delivery      one message: its envelope, parameters and transactions
#   transaction   one transaction: groups of commands, the message, the replies
#   handshake     greeting, EHLO, STARTTLS, AUTH
#   exchange      one connection: command out, reply in, timeouts
#   message       the content of a message, and below it addresses, generator and encode
#   missing_fields  Date and Message-ID
#   results       outcomes and exceptions
#
# The protocol itself (what may be sent when, and how it is written and read) is in smtp_trio.protocol.client. The
# modules here decide what to send, wait for the replies, and report the results. `Client.send` goes through all of them
# in this order:
#
# 1. `Exchange.operation` makes sure that no other task uses the connection, and that it is in step.
# 2. `Delivery.prepare` checks the arguments and prepares the commands and the message. Nothing has been sent if this
#    raises.
# 3. `Exchange.prepare_transaction` looks for a reply that the server has sent without a command, most often 421.
# 4. `Delivery.run` runs a `Transaction`, usually one. It writes the outcomes into a `PartialResult`.
# 5. `Client.send` returns that as a `Result`, or raises an exception.
