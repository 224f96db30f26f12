// An smtp-server (nodemailer) that accepts every message and stores nothing. Arguments: PORT CERTIFICATE.
"use strict";
const fs = require("fs");
const { SMTPServer } = require("smtp-server");

const [port, certificate] = process.argv.slice(2);
const pem = fs.readFileSync(certificate);
const server = new SMTPServer({
    name: "bench.example.org",
    cert: pem,
    key: pem,
    authOptional: true,
    disableReverseLookup: true,
    onData(stream, session, done) {
        stream.on("end", () => done(null, "Ok"));
        stream.resume();
    },
});
server.on("error", () => {});
server.listen({ port: Number(port), host: "127.0.0.1", backlog: 1000 });
