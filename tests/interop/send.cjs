// Send one message with nodemailer: `node send.cjs SUBMISSION`, where SUBMISSION is JSON written by programs.py.
const fs = require("node:fs");
const nodemailer = require("nodemailer");

const submission = JSON.parse(process.argv[2]);
const transport = nodemailer.createTransport({
    host: submission.host,
    port: submission.port,
    secure: submission.tls === "implicit",
    requireTLS: submission.tls === "starttls",
    ignoreTLS: submission.tls === "none",
    tls: submission.ca ? { ca: fs.readFileSync(submission.ca) } : {},
    auth: submission.auth ? { user: submission.user, pass: submission.password } : undefined,
    authMethod: submission.auth || undefined,
});
transport
    .sendMail({ envelope: { from: submission.sender, to: submission.recipients }, raw: fs.readFileSync(submission.mail) })
    .then((info) => console.log(info.response))
    .catch((error) => {
        console.error(error.message);
        process.exitCode = 1;
    });
