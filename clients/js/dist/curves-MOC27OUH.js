/*! sync-hub-client 0.1.0, Apache-2.0; LICENSES.txt */
import{a as b,b as c}from"./chunk-C246KUY7.js";import{m as a}from"./chunk-QZPEEJAU.js";export{b as ed25519,a as sha512,c as x25519};
