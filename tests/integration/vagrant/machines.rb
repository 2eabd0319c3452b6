# Evaluates vagrant/Vagrantfile with machines that are played, and prints what would be done with them, as JSON.
#
#     ruby machines.rb ../../../vagrant/Vagrantfile joined_already…

require "json"

# Stands for any part of the configuration: remembers what is set and called.
class Part
  attr_reader :calls, :parts

  def initialize
    @calls = []
    @parts = Hash.new { |all, name| all[name] = Part.new }
  end

  def method_missing(name, *values, **options)
    @calls << [name, values, options] unless values.empty? && options.empty?
    part = values.first.is_a?(Symbol) || values.first.is_a?(String) ? @parts["#{name} #{values.first}"] : @parts[name.to_s]
    yield part if block_given?
    part
  end

  def ruby(&block)
    @block = block
  end

  def block
    @block
  end

  def respond_to_missing?(*) = true
end

module Vagrant
  def self.configure(_version)
    yield CONFIG
  end
end

CONFIG = Part.new

Machine = Struct.new(:name, :provider_name, :said, :files, :shown) do
  def communicate = self
  def ui = self
  def detail(line) = shown << line
  def success(_) = nil
  def test(command, sudo:) = sudo && files.include?(command.split.last)

  def sudo(command)
    said << command
    yield :stderr, "a warning\n"
    yield :stdout, "sampan join https://192.168.56.10:6443 --token a.b --ca-hash sha256:0\n" if command.include?("token create")
    yield :stdout, "apiVersion: v1\n" if command.end_with?("kubeconfig")
    ["Node … ", "is Ready\nand ", "so on"].each { |piece| yield :stdout, piece } if command.include?(" join ")
  end
end

file = File.expand_path(ARGV.shift)
eval File.read(file), TOPLEVEL_BINDING, file
joined = ARGV
machines = ADDRESSES.keys.to_h do |name|
  [name, Machine.new(name.to_sym, :virtualbox, [], joined.include?(name) ? ["/var/lib/sampan/agent/pki/node.pem"] : [], [])]
end
environment = Object.new
environment.define_singleton_method(:machine) { |name, provider| provider == :virtualbox ? machines.fetch(name.to_s) : raise }
defined = CONFIG.parts["vm"].parts
ADDRESSES.each_key do |name|
  defined["define #{name}"].parts["trigger"].parts["after up"].block.call(environment, machines[name])
end
provisions = ADDRESSES.keys.to_h do |name|
  [name, defined["define #{name}"].parts["vm"].calls.find { |call| call.first == :provision }.last]
end
puts JSON.generate("said" => machines.transform_values(&:said), "provision" => provisions,
                   "shown" => machines.transform_values(&:shown),
                   "networks" => ADDRESSES.keys.to_h { |name|
                     [name, defined["define #{name}"].parts["vm"].calls.find { |call| call.first == :network }.last]
                   })
