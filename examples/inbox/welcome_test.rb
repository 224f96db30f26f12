# Run `smtp-trio inbox`, and then `ruby welcome_test.rb`.
require "json"
require "minitest/autorun"
require "net/http"
require "net/smtp"

class WelcomeTest < Minitest::Test
  def test_welcome
    to = "#{rand(2**64)}@example.org" # no other test sees its mail
    Net::SMTP.start("127.0.0.1", Integer(ENV.fetch("SMTP_PORT", 1025))) do |smtp|
      smtp.send_message("Subject: Welcome\n\nYour code is 4711", "shop@example.org", to)
    end
    http = Net::HTTP.new("127.0.0.1", Integer(ENV.fetch("HTTP_PORT", 8025)))
    mail = JSON.parse(http.get("/api/wait?to=#{to}").body)["messages"].first
    assert_includes mail["text"], "Your code is 4711"
    search = "/api/messages?query=rcpt:#{to}"
    assert_equal mail["id"], JSON.parse(http.get(search).body).dig("messages", 0, "id")
    assert_equal({ "removed" => 1 }, JSON.parse(http.delete(search).body))
  end
end
