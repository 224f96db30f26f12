// An smtp-server (nodemailer) that stores each message in a file. Arguments: DIRECTORY PORT SMTPS CHAIN KEY USER PASSWORD.
"use strict";
const fs = require("fs");
const path = require("path");
const { SMTPServer } = require("smtp-server");

const [directory, port, smtps, chain, key, user, password] = process.argv.slice(2);
let number = 0;

function serve(port, secure) {
    const server = new SMTPServer({
        secure,
        name: "localhost",
        cert: fs.readFileSync(chain),
        key: fs.readFileSync(key),
        size: 50000000,
        authOptional: true,
        disableReverseLookup: true,
        onAuth(auth, session, done) {
            const correct = auth.username === user && auth.password === password;
            done(correct ? null : new Error("Authentication credentials invalid"), { user: auth.username });
        },
        onRcptTo(address, session, done) {
            // smtp-server does not remove the quotes of a local part, so the application has to.
            const unknown = address.address.replace(/"/g, "").startsWith("nobody@");
            done(unknown ? Object.assign(new Error("5.1.1 no such user here"), { responseCode: 550 }) : null);
        },
        onData(stream, session, done) {
            const name = String(number++);
            const file = path.join(directory, "box", "tmp", name);
            stream.pipe(fs.createWriteStream(file)).on("finish", () => {
                fs.renameSync(file, path.join(directory, "box", "new", name));
                done(null, "2.0.0 stored");
            });
        },
    });
    server.on("error", (error) => console.error(error));
    server.listen(Number(port), "127.0.0.1");
}

serve(port, false);
serve(smtps, true);
