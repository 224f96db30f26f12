// Sends one message with nodemailer: `node send.cjs ERRAND`, where ERRAND is the JSON that programs.py writes.
const fs = require("node:fs");
const nodemailer = require("nodemailer");

const errand = JSON.parse(process.argv[2]);
const transport = nodemailer.createTransport({
    host: errand.host,
    port: errand.port,
    secure: errand.tls === "implicit",
    requireTLS: errand.tls === "starttls",
    ignoreTLS: errand.tls === "none",
    tls: errand.ca ? { ca: fs.readFileSync(errand.ca) } : {},
    auth: errand.auth ? { user: errand.user, pass: errand.password } : undefined,
    authMethod: errand.auth || undefined,
});
transport
    .sendMail({ envelope: { from: errand.sender, to: errand.recipients }, raw: fs.readFileSync(errand.mail) })
    .then((info) => console.log(info.response))
    .catch((error) => {
        console.error(error.message);
        process.exitCode = 1;
    });
