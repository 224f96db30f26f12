# Run `smtp-trio inbox`, and then `ruby welcome_test.rb`.
require "json"
require "minitest/autorun"
require "net/http"
require "net/smtp"
require "securerandom"

API = URI(ENV.fetch("INBOX_URL", "http://127.0.0.1:8025"))
SMTP_PORT = Integer(ENV.fetch("SMTP_PORT", "1025"))

class WelcomeTest < Minitest::Test
  def call(method, path, **parameters)
    http = Net::HTTP.new(API.host, API.port)
    response = http.send_request(method, "/api#{path}?#{URI.encode_www_form(parameters)}")
    response.value # raises an error unless the status is 2xx
    JSON.parse(response.body, symbolize_names: true)
  end

  # Send a message, in the place of your application.
  def sign_up(address)
    message = "To: #{address}\r\nSubject: Welcome\r\n\r\nYour code is 4711\r\n"
    Net::SMTP.start("127.0.0.1", SMTP_PORT) do |smtp|
      smtp.send_message(message, "shop@example.org", address)
    end
  end

  def test_welcome
    address = "#{SecureRandom.uuid}@example.org" # no other test sees its mail
    sign_up(address)
    message = call("GET", "/wait", to: address, subject: "Welcome")[:messages].first
    assert_includes message[:text], "Your code is 4711"
    found = call("GET", "/messages", query: "rcpt:#{address}")[:messages]
    assert_equal [message[:id]], found.map { |each| each[:id] }
    assert_equal({ removed: 1 }, call("DELETE", "/messages", query: "rcpt:#{address}"))
  end
end
